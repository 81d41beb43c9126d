/* Ragged observations of runs and their ancestors onto one ascending grid of tokens.

   Where a point lies among the observations of its run is the same for every metric that was observed at the same
   tokens: that is found once, as a plan. A metric's values then need two products and a sum per cell.

   A plan numbers the pieces that curves are made of: piece 2 i is the value of observation i, piece 2 i + 1 the line
   that leads to it from the observation before it, and the last piece is nothing. A cell names its piece, and how far
   from the piece's beginning it lies. */

#include "export.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { LINEAR = 0, LOGARITHMIC = 1, NEAREST = 2, PREVIOUS = 3 };

typedef struct {
    int64_t n_runs;
    const int32_t *parent;    /* of each run; -1 for a pretraining run. Parents stand before their children. */
    const int64_t *branch;    /* cumulative tokens at the branch; -1 for a pretraining run */
    const int64_t *offsets;   /* own observations of run r are offsets[r] to offsets[r + 1] */
    const int64_t *tokens;    /* of each observation; ascending and distinct within a run */
    const double *log_tokens; /* their logarithms, or NULL where the method needs none */
    int64_t n_points;
    const int64_t *grid;    /* ascending */
    const double *log_grid; /* or NULL */
    int32_t method;
    int32_t joins;   /* whether a run's curve may begin with its parent's observation at the branch */
    int32_t bridges; /* whether an earlier observation of the parent will do */
    int64_t max_gap; /* longest distance that is filled; negative for any */
    int32_t *piece;  /* (run, point) */
    double *along;   /* (run, point): distance from the beginning of a line; of a value 1 at its own place, else 2 */
    int64_t *before; /* (observation): the one that the line to it comes from, -1 where there is no line */
    double *width;   /* (observation): length of that line */
} Plan;

/* value = slope * along + start */
typedef struct {
    double slope, start;
} Piece;

/* First index from low to high whose value is above `bound`. */
static int64_t first_above(const int64_t *values, int64_t low, int64_t high, int64_t bound) {
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (values[middle] > bound)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* Number of the last observation of a run's continuous curve at or before `bound`; -1 where there is none. */
static int64_t last_observation(const Plan *p, int32_t run, int64_t bound) {
    while (run >= 0) {
        const int64_t first = p->offsets[run];
        const int64_t at = first_above(p->tokens, first, p->offsets[run + 1], bound) - 1;
        if (at >= first && p->tokens[at] > p->branch[run]) return at;
        if (p->branch[run] < bound) bound = p->branch[run];
        run = p->parent[run];
    }
    return -1;
}

/* Points from k up to `stop`, which lie between the observations i and next. */
static void plan_between(const Plan *p, int64_t i, int64_t next, int64_t k, int64_t stop, int32_t *piece,
                         double *along) {
    const int64_t x0 = p->tokens[i], x1 = p->tokens[next];
    const int32_t nothing = (int32_t)(2 * p->offsets[p->n_runs]);
    if (p->max_gap >= 0 && x1 - x0 > p->max_gap) {
        for (; k < stop; k++) piece[k] = nothing, along[k] = 1.0;
    } else if (p->method == PREVIOUS) {
        for (; k < stop; k++) piece[k] = (int32_t)(2 * i), along[k] = 2.0;
    } else if (p->method == NEAREST) {
        /* Halfway between two observations the earlier one counts. */
        for (; k < stop; k++) {
            piece[k] = (int32_t)(2 * (p->grid[k] - x0 <= x1 - p->grid[k] ? i : next));
            along[k] = 2.0;
        }
    } else if (p->method == LOGARITHMIC && x0 > 0) {
        p->before[next] = i;
        p->width[next] = p->log_tokens[next] - p->log_tokens[i];
        for (; k < stop; k++) piece[k] = (int32_t)(2 * next + 1), along[k] = p->log_grid[k] - p->log_tokens[i];
    } else {
        /* Also the stretch from token 0 to the first positive observation, which has no logarithm. */
        p->before[next] = i;
        p->width[next] = (double)(x1 - x0);
        for (; k < stop; k++) piece[k] = (int32_t)(2 * next + 1), along[k] = (double)(p->grid[k] - x0);
    }
}

static void plan_run(const Plan *p, int32_t run) {
    const int64_t n = p->n_points, last = p->offsets[run + 1];
    const int32_t nothing = (int32_t)(2 * p->offsets[p->n_runs]), parent = p->parent[run];
    int32_t *piece = p->piece + run * n;
    double *along = p->along + run * n;
    int64_t k = 0, next = p->offsets[run], i = -1; /* the observations behind and before the point */
    for (int64_t j = next; j < last; j++) p->before[j] = -1, p->width[j] = 1.0;
    if (parent >= 0) {
        const int64_t branch = p->branch[run];
        /* A run's own observations lie behind its branch; what is at the branch belongs to its parent. */
        next = first_above(p->tokens, next, last, branch);
        k = first_above(p->grid, 0, n, branch);
        memcpy(piece, p->piece + parent * n, (size_t)k * sizeof *piece);
        memcpy(along, p->along + parent * n, (size_t)k * sizeof *along);
        if (p->joins && next < last) {
            i = last_observation(p, parent, branch);
            if (i >= 0 && !p->bridges && p->tokens[i] != branch) i = -1;
        }
    }
    while (k < n) {
        while (next < last && p->tokens[next] <= p->grid[k]) i = next++;
        if (i >= 0 && p->tokens[i] == p->grid[k]) {
            piece[k] = (int32_t)(2 * i);
            along[k++] = 1.0;
            continue;
        }
        int64_t stop = k + 1;
        if (next < last) {
            while (stop < n && p->grid[stop] < p->tokens[next]) stop++;
        } else {
            stop = n;
        }
        if (i >= 0 && next < last)
            plan_between(p, i, next, k, stop, piece, along);
        else
            for (int64_t j = k; j < stop; j++) piece[j] = nothing, along[j] = 1.0;
        k = stop;
    }
}

/* Plan the runs of one part of the lineages, of which there are `parts`; runs with ancestors in common are in the same
   part. `root` has room for a number per run. */
DDE_EXPORT void dde_plan(const Plan *p, int32_t part, int32_t parts, int32_t *root) {
    int32_t roots = 0;
    for (int64_t r = 0; r < p->n_runs; r++) root[r] = p->parent[r] < 0 ? roots++ : root[p->parent[r]];
    for (int64_t r = 0; r < p->n_runs; r++)
        if ((int64_t)root[r] * parts / roots == part) plan_run(p, (int32_t)r);
}

/* Make the pieces of one metric, 2 n + 1 of them; false where one is not finite, which needs more care than this. */
DDE_EXPORT int32_t dde_pieces(int64_t n, const int64_t *before, const double *width, const double *values,
                              Piece *pieces) {
    double odd = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double value = values[i];
        /* A negative zero times 1 or 2, added, leaves every number as it is, the sign of a zero included. */
        pieces[2 * i] = (Piece){-0.0, value};
        const double start = before[i] < 0 ? value : values[before[i]];
        const double slope = (value - start) / width[i];
        pieces[2 * i + 1] = (Piece){slope, start};
        odd += slope - slope;
    }
    pieces[2 * n] = (Piece){NAN, NAN};
    return odd == 0.0;
}

/* Fill n rows: row rows[r] of the plan goes to row at[r] of `out`. */
DDE_EXPORT void dde_fill(const Piece *pieces, const int32_t *piece, const double *along, int64_t n_points, int64_t n,
                         const int64_t *rows, const int64_t *at, double *out) {
    for (int64_t r = 0; r < n; r++) {
        const int32_t *which = piece + rows[r] * n_points;
        const double *x = along + rows[r] * n_points;
        double *to = out + at[r] * n_points;
        for (int64_t k = 0; k < n_points; k++) {
            const Piece of = pieces[which[k]];
            to[k] = of.slope * x[k] + of.start;
        }
    }
}
