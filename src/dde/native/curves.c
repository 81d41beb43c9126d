/* Ragged observations of runs and their ancestors onto one ascending grid of tokens.

   Where a point lies among the observations of its run is the same for every metric of one source: that is found once,
   as a plan. Stretch j begins at observation j and ends before the next of its run; stretch n belongs to nothing, and
   stretch n + 1 + r leads to the first observation of run r from the parent's at the branch. Cell 2 s of a plan lies at
   the beginning of stretch s, cell 2 s + 1 within it. A metric that lacks a sample at j has other lines on its
   stretches, not another plan: the line that passes j is that of both stretches that meet there. */

#include "export.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { LINEAR = 0, LOGARITHMIC = 1, NEAREST = 2, PREVIOUS = 3 };

typedef struct {
    int64_t n_runs;
    const int32_t *parent;    /* of each run; -1 for a pretraining run. Parents stand before their children. */
    const int32_t *root;      /* the pretraining run, or whatever has no parent, that a run derives from */
    const int64_t *branch;    /* cumulative tokens at the branch; -1 for a pretraining run */
    const uint8_t *joins;     /* whether a run's curve may begin with its parent's observation at the branch */
    const int64_t *offsets;   /* own observations of run r are offsets[r] to offsets[r + 1] */
    const int64_t *tokens;    /* of each observation; ascending and distinct within a run */
    double *places;           /* the same, or their logarithms; then of the beginnings of the other stretches */
    int64_t n_points;
    const int64_t *grid;      /* ascending */
    const double *points;     /* the same */
    const double *log_points; /* their logarithms, or NULL where the method needs none */
    int32_t method;
    int32_t bridges; /* whether an earlier observation of the parent will do */
    int64_t max_gap; /* longest distance that is filled; negative for any */
    int32_t *cell;   /* (run, point) */
    int32_t *before; /* (observation): the one before it on its curve, perhaps a parent's; -1 where there is none */
} Plan;

/* A value on a stretch is slope * (place - from) + start, from being where the stretch begins. */
typedef struct {
    double slope, start;
} Line;

/* The same where samples may be lacking or the method is another, for then lines begin elsewhere. `value` is that at
   the beginning of the stretch, NaN where there is none. Of the nearer of two observations slope is the sum of their
   places, start the value of the first and from that of the second. */
typedef struct {
    double slope, start, from, value;
} Stretch;

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

/* A run's own observations lie behind its branch; what is at the branch belongs to its parent. */
static int64_t first_own(const Plan *p, int64_t run) {
    return first_above(p->tokens, p->offsets[run], p->offsets[run + 1], p->branch[run]);
}

static void plan_run(const Plan *p, int64_t run) {
    const int64_t n = p->n_points, count = p->offsets[p->n_runs], last = p->offsets[run + 1];
    const int32_t parent = p->parent[run];
    int32_t *cell = p->cell + run * n;
    int64_t k = 0, next = first_own(p, run), stretch = count + 1 + run;
    for (int64_t j = p->offsets[run]; j < last; j++) p->before[j] = j > next ? (int32_t)(j - 1) : -1;
    p->places[stretch] = NAN;
    if (parent >= 0) {
        k = first_above(p->grid, 0, n, p->branch[run]);
        memcpy(cell, p->cell + parent * n, (size_t)k * sizeof *cell);
        if (p->joins[run] && next < last) {
            const int64_t i = last_observation(p, parent, p->branch[run]);
            if (i >= 0 && (p->bridges || p->tokens[i] == p->branch[run])) {
                p->before[next] = (int32_t)i;
                p->places[stretch] = p->places[i];
            }
        }
    }
    for (; next < last && k < n; stretch = next++) {
        const int64_t here = p->tokens[next];
        for (; k < n && p->grid[k] < here; k++) cell[k] = (int32_t)(2 * stretch + 1);
        for (; k < n && p->grid[k] == here; k++) cell[k] = (int32_t)(2 * next);
    }
    for (; k < n; k++) cell[k] = (int32_t)(2 * count + 1);
}

static bool is_in_part(const Plan *p, int64_t run, int32_t part, int32_t parts) {
    return (int64_t)p->root[run] * parts / p->n_runs == part;
}

/* Plan the runs of one part of the lineages, of which there are `parts`; runs with ancestors in common are in the same
   part. */
DDE_EXPORT void dde_plan(const Plan *p, int32_t part, int32_t parts) {
    for (int64_t r = 0; r < p->n_runs; r++)
        if (is_in_part(p, r, part, parts)) plan_run(p, r);
}

static inline uint64_t magnitude(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits & UINT64_C(0x7fffffffffffffff);
}

/* Lines of a run none of whose ancestors lacks a sample; false where one is not finite, or a sample is a negative zero,
   which a line that begins there would turn into a positive one. */
static bool make_lines(const Plan *p, int64_t run, const double *values, Line *lines) {
    const int64_t first = p->offsets[run], last = p->offsets[run + 1], own = first_own(p, run);
    Line *joined = lines + p->offsets[p->n_runs] + 1 + run;
    *joined = (Line){NAN, NAN};
    if (own == last) return true;
    /* Sums and differences that leave the magnitude's 63 bits: of what is infinite or NaN, and of zeros. */
    uint64_t odd = 0, zeros = 0;
    const uint64_t one_exponent = UINT64_C(1) << 52;
    if (p->before[own] >= 0) {
        const double start = values[p->before[own]];
        *joined = (Line){(values[own] - start) / (p->places[own] - p->places[p->before[own]]), start};
        odd = magnitude(joined->slope) + one_exponent;
    }
    double slopes[128];
    for (int64_t start = own; start < last; start += 128) {
        /* Loops that a compiler turns into operations on several numbers at once. */
        const int64_t n = last - start < 128 ? last - start : 128, lines_on = start + n < last ? n : n - 1;
        const double *y = values + start, *x = p->places + start;
        for (int64_t i = 0; i < lines_on; i++) slopes[i] = (y[i + 1] - y[i]) / (x[i + 1] - x[i]);
        if (lines_on < n) slopes[n - 1] = 0.0;
        for (int64_t i = 0; i < n; i++) odd |= magnitude(slopes[i]) + one_exponent;
        for (int64_t i = 0; i < n; i++) zeros |= magnitude(y[i]) - 1;
        for (int64_t i = 0; i < n; i++) lines[start + i] = (Line){slopes[i], y[i]};
    }
    odd |= magnitude(values[last - 1]) + one_exponent;
    for (int64_t j = own; zeros >> 63 && j < last; j++)
        if (values[j] == 0.0 && signbit(values[j])) return false;
    return !(odd >> 63);
}

static const Stretch NOTHING = {NAN, NAN, NAN, NAN};

/* The line from observation i, or from none, to j; `odd` becomes NaN where it is not finite. */
static Stretch line_between(const Plan *p, const double *values, int64_t i, int64_t j, double *odd) {
    if (i < 0 || (p->max_gap >= 0 && p->tokens[j] - p->tokens[i] > p->max_gap)) return NOTHING;
    if (p->method == NEAREST)
        /* Tokens are not negative: the sum of two has room in 64 bits without a sign. */
        return (Stretch){(double)((uint64_t)p->tokens[i] + (uint64_t)p->tokens[j]), values[i], values[j], NAN};
    /* A negative zero times a positive number, added, leaves every number as it is, a zero's sign included. */
    if (p->method == PREVIOUS) return (Stretch){-0.0, values[i], 0.0, NAN};
    const double from = p->places[i];
    /* Token 0 has no logarithm, and the stretch from there is linear in tokens. */
    const double width = isinf(from) ? (double)p->tokens[j] : p->places[j] - from;
    const double slope = (values[j] - values[i]) / width;
    *odd += slope - slope;
    return (Stretch){slope, values[i], from, NAN};
}

/* Stretches of a run. `seen` is the last sample at or before each observation on its curve. */
static bool make_stretches(const Plan *p, int64_t run, const double *values, Stretch *stretches, int32_t *seen) {
    const int64_t first = p->offsets[run], last = p->offsets[run + 1], own = first_own(p, run);
    int64_t from = -1, open = own;
    double odd = 0.0;
    if (own < last && p->before[own] >= 0) {
        const int32_t joined = p->before[own];
        /* The parent's last sample will do where branches are bridged, else only one at the branch itself. */
        from = p->bridges ? seen[joined] : isnan(values[joined]) ? -1 : joined;
    }
    Stretch *led = stretches + p->offsets[p->n_runs] + 1 + run;
    *led = NOTHING;
    for (int64_t j = first; j < own; j++) seen[j] = -1;
    for (int64_t j = own; j < last; j++) {
        stretches[j] = NOTHING;
        if (!isnan(values[j])) {
            const Stretch line = line_between(p, values, from, j, &odd);
            if (led) *led = line, led = NULL;
            for (; open < j; open++) {
                const double value = stretches[open].value;
                stretches[open] = line;
                stretches[open].value = value;
            }
            stretches[j].value = values[j];
            from = j;
        }
        seen[j] = (int32_t)from;
    }
    return odd == 0.0;
}

/* The bits of a where `choice` is all ones, of b where it is 0: a branch would be guessed wrongly too often. */
static inline double either(int64_t choice, double a, double b) {
    int64_t of_a, of_b;
    memcpy(&of_a, &a, sizeof a);
    memcpy(&of_b, &b, sizeof b);
    of_a = (of_a & choice) | (of_b & ~choice);
    memcpy(&a, &of_a, sizeof a);
    return a;
}

static inline double within(const Plan *p, const Stretch *s, int64_t k, int32_t method) {
    if (method == NEAREST)
        /* Halfway between two observations the earlier one counts. */
        return 2.0 * p->points[k] <= s->slope ? s->start : s->from;
    if (method == LOGARITHMIC) {
        const double place = isinf(s->from) ? p->points[k] : p->log_points[k] - s->from;
        return s->slope * place + s->start;
    }
    return s->slope * (p->points[k] - s->from) + s->start;
}

static inline void fill_stretches(const Plan *p, const Stretch *stretches, const int32_t *cell, double *to,
                                  int32_t method) {
    for (int64_t k = 0; k < p->n_points; k++) {
        const Stretch *s = stretches + (cell[k] >> 1);
        const int64_t is_within = -(int64_t)((cell[k] & 1) | (isnan(s->value) != 0));
        to[k] = either(is_within, within(p, s, k, method), s->value);
    }
}

static void fill_lines(const Plan *p, const Line *lines, const int32_t *cell, double *to) {
    for (int64_t k = 0; k < p->n_points; k++) {
        const int32_t s = cell[k] >> 1;
        to[k] = lines[s].slope * (p->points[k] - p->places[s]) + lines[s].start;
    }
}

/* Fill n rows with the curves of one metric: run rows[r], ascending, goes to row at[r] of `out`. Does one part of the
   lineages, as dde_plan does. NaN among the values is a sample that is lacking.

   `simple` is for a linear method without a longest gap and values none of which is lacking: faster, and false where
   that turns out not to be so; parts may not differ in it. `room` holds a Stretch for each of observations + 1 + runs,
   `seen` a number for each observation. Lines are made run by run, while they are at hand. False, too, where one is not
   finite, which needs more care than this. */
DDE_EXPORT int32_t dde_fill(const Plan *p, int32_t simple, const double *values, void *room, int32_t *seen,
                            int32_t part, int32_t parts, int64_t n, const int64_t *rows, const int64_t *at,
                            double *out) {
    const int64_t count = p->offsets[p->n_runs];
    int64_t row = 0;
    if (simple)
        ((Line *)room)[count] = (Line){NAN, NAN};
    else
        ((Stretch *)room)[count] = NOTHING;
    for (int64_t r = 0; r < p->n_runs; r++) {
        const bool is_here = is_in_part(p, r, part, parts);
        if (is_here && simple && !make_lines(p, r, values, room)) return 0;
        if (is_here && !simple && !make_stretches(p, r, values, room, seen)) return 0;
        const int32_t *cell = p->cell + r * p->n_points;
        for (; row < n && rows[row] == r; row++) {
            double *to = out + at[row] * p->n_points;
            if (!is_here)
                continue;
            else if (simple)
                fill_lines(p, room, cell, to);
            else if (p->method == NEAREST)
                fill_stretches(p, room, cell, to, NEAREST);
            else if (p->method == LOGARITHMIC)
                fill_stretches(p, room, cell, to, LOGARITHMIC);
            else
                fill_stretches(p, room, cell, to, LINEAR);
        }
    }
    return 1;
}
