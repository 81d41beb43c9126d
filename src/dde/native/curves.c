/* Ragged observations of runs and their ancestors onto one ascending grid of tokens. */

#include "export.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { LINEAR = 0, LOGARITHMIC = 1, NEAREST = 2, PREVIOUS = 3 };
enum { OUTSIDE = 0, OBSERVED = 1, INTERPOLATED = 2 };

typedef struct {
    int64_t n_runs;
    const int32_t *parent;    /* of each run; -1 for a pretraining run. Parents stand before their children. */
    const int64_t *branch;    /* cumulative tokens at the branch; -1 for a pretraining run */
    const int64_t *offsets;   /* own observations of run r are offsets[r] to offsets[r + 1] */
    const int64_t *tokens;    /* of each observation; ascending and distinct within a run */
    const double *log_tokens; /* their logarithms, or NULL where the method needs none */
    const double *values;     /* NaN is no observation */
    int64_t n_points;
    const int64_t *grid; /* ascending */
    const double *grid_as_double;
    const double *log_grid; /* or NULL */
    int32_t method;
    int32_t joins;   /* whether a run's curve may begin with its parent's observation at the branch */
    int32_t bridges; /* whether an earlier observation of the parent will do */
    int64_t max_gap; /* longest distance that is filled; negative for any */
    double *const *out;   /* where each run's curve goes, a number per point */
    int8_t *const *codes; /* where the support of each goes, or NULL */
} Alignment;

/* Observations of one run that hold a number. */
typedef struct {
    int64_t *x;
    double *x_log, *y;
    int64_t n;
} Samples;

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
static int64_t last_observation(const Alignment *a, int32_t run, int64_t bound) {
    while (run >= 0) {
        const int64_t first = a->offsets[run];
        int64_t at = first_above(a->tokens, first, a->offsets[run + 1], bound) - 1;
        while (at >= first && isnan(a->values[at])) at--;
        if (at >= first && a->tokens[at] > a->branch[run]) return at;
        if (a->branch[run] < bound) bound = a->branch[run];
        run = a->parent[run];
    }
    return -1;
}

static double between(double slope, double x, double x0, double y0, double x1, double y1) {
    double value = slope * (x - x0) + y0;
    if (isnan(value)) {
        value = slope * (x - x1) + y1;
        if (isnan(value) && y0 == y1) value = y0;
    }
    return value;
}

/* Points from k up to `stop`, which lie between observations j and j + 1. */
static void fill_between(const Alignment *a, const Samples *s, int64_t j, int64_t k, int64_t stop, double *out) {
    const double y0 = s->y[j], y1 = s->y[j + 1];
    if (a->max_gap >= 0 && s->x[j + 1] - s->x[j] > a->max_gap) {
        for (; k < stop; k++) out[k] = NAN;
        return;
    }
    if (a->method == PREVIOUS) {
        for (; k < stop; k++) out[k] = y0;
        return;
    }
    if (a->method == NEAREST) {
        for (; k < stop; k++) out[k] = a->grid[k] - s->x[j] <= s->x[j + 1] - a->grid[k] ? y0 : y1;
        return;
    }
    /* The stretch from token 0 to the first positive observation has no logarithm: it is linear. */
    const bool in_logs = a->method == LOGARITHMIC && s->x[j] > 0;
    const double x0 = in_logs ? s->x_log[j] : (double)s->x[j];
    const double x1 = in_logs ? s->x_log[j + 1] : (double)s->x[j + 1];
    const double *x = in_logs ? a->log_grid : a->grid_as_double;
    const double slope = (y1 - y0) / (x1 - x0);
    if (isfinite(slope) && isfinite(y0)) {
        for (; k < stop; k++) out[k] = slope * (x[k] - x0) + y0;
    } else {
        for (; k < stop; k++) out[k] = between(slope, x[k], x0, y0, x1, y1);
    }
}

/* A run's own samples onto the points from k on. */
static void fill_own(const Alignment *a, const Samples *s, int64_t k, double *out, int8_t *codes) {
    const int64_t n = a->n_points;
    int64_t j = 0;
    for (; k < n && (s->n == 0 || a->grid[k] < s->x[0]); k++) out[k] = NAN;
    while (k < n && j < s->n) {
        if (a->grid[k] == s->x[j]) {
            out[k] = s->y[j];
            if (codes) codes[k] = OBSERVED;
            k++;
            continue;
        }
        if (j + 1 == s->n) break;
        if (a->grid[k] >= s->x[j + 1]) {
            j++;
            continue;
        }
        int64_t stop = k + 1;
        while (stop < n && a->grid[stop] < s->x[j + 1]) stop++;
        fill_between(a, s, j, k, stop, out);
        k = stop;
    }
    for (; k < n; k++) out[k] = NAN;
}

static void align_run(const Alignment *a, int32_t run, Samples *s) {
    double *out = a->out[run];
    int8_t *codes = a->codes ? a->codes[run] : NULL;
    const int64_t last = a->offsets[run + 1];
    int64_t first = a->offsets[run], start = 0;
    const int32_t parent = a->parent[run];
    s->n = 0;
    if (parent >= 0) {
        const int64_t branch = a->branch[run];
        /* A run's own observations lie behind its branch; what is at the branch belongs to its parent. */
        first = first_above(a->tokens, first, last, branch);
        start = first_above(a->grid, 0, a->n_points, branch);
        memcpy(out, a->out[parent], (size_t)start * sizeof *out);
        if (codes) memcpy(codes, a->codes[parent], (size_t)start);
        while (first < last && isnan(a->values[first])) first++;
        const int64_t anchor = a->joins && first < last ? last_observation(a, parent, branch) : -1;
        if (anchor >= 0 && (a->bridges || a->tokens[anchor] == branch)) {
            s->x[0] = a->tokens[anchor];
            s->y[0] = a->values[anchor];
            if (a->log_tokens) s->x_log[0] = a->log_tokens[anchor];
            s->n = 1;
        }
    }
    for (int64_t i = first; i < last; i++) {
        if (isnan(a->values[i])) continue;
        s->x[s->n] = a->tokens[i];
        s->y[s->n] = a->values[i];
        if (a->log_tokens) s->x_log[s->n] = a->log_tokens[i];
        s->n++;
    }
    if (codes) memset(codes + start, OUTSIDE, (size_t)(a->n_points - start));
    fill_own(a, s, start, out, codes);
    if (codes)
        for (int64_t k = start; k < a->n_points; k++)
            if (codes[k] != OBSERVED && !isnan(out[k])) codes[k] = INTERPOLATED;
}

/* Align the runs of one part of the lineages, of which there are `parts`; runs with ancestors in common are in the
   same part. The scratch arrays hold one number per run, and one per observation of the longest run and one more. */
DDE_EXPORT void dde_align(const Alignment *a, int32_t part, int32_t parts, int32_t *root, int64_t *x, double *x_log,
                          double *y) {
    Samples samples = {x, x_log, y, 0};
    int32_t roots = 0;
    for (int64_t r = 0; r < a->n_runs; r++) root[r] = a->parent[r] < 0 ? roots++ : root[a->parent[r]];
    for (int64_t r = 0; r < a->n_runs; r++)
        if ((int64_t)root[r] * parts / roots == part) align_run(a, (int32_t)r, &samples);
}
