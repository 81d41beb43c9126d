/* Curves of runs on a grid of tokens: which line each cell is on, and the values of these lines for one metric.

   Of `n` observations, line `i` below `n` is observation `i` itself, line `n` means no value, and line `n + 1 + i` leads
   to observation `i` from the one before it on the curve of its run. */

#include "export.h"

#include <stdint.h>
#include <string.h>

/* Find the line of each cell, and the distance of the cell from the beginning of that line.

   Runs follow their parents. Up to `begin` the cells of a run are those of its parent; observations `first` to `stop`
   are its own. Where `is_plain`, the distance on a line is in tokens from `start`, else in `points` from `origin`. */
DDE_EXPORT void dde_place_points(int64_t n_runs, const int64_t *parent, const int64_t *begin, const int64_t *first,
                                 const int64_t *stop, int64_t n, const int64_t *tokens, const uint8_t *has_line,
                                 const int64_t *start, const double *origin, const uint8_t *is_plain, int64_t n_points,
                                 const int64_t *grid, const double *points, int64_t *line, double *distance) {
    for (int64_t r = 0; r < n_runs; r++) {
        int64_t *lines = line + r * n_points;
        double *distances = distance + r * n_points;
        int64_t k = 0;
        if (parent[r] >= 0) {
            k = begin[r];
            memcpy(lines, line + parent[r] * n_points, (size_t)k * sizeof *lines);
            memcpy(distances, distance + parent[r] * n_points, (size_t)k * sizeof *distances);
        }
        int64_t j = first[r];
        for (; k < n_points; k++) {
            while (j < stop[r] && tokens[j] < grid[k])
                j++;
            lines[k] = n;
            distances[k] = 0.0;
            if (j == stop[r])
                continue;
            if (tokens[j] == grid[k]) {
                lines[k] = j;
            } else if (has_line[j]) {
                lines[k] = n + 1 + j;
                /* Subtracted as integers: tokens beyond 2 ** 53 are not exact as doubles. */
                distances[k] = is_plain[j] ? (double)(grid[k] - start[j]) : points[k] - origin[j];
            }
        }
    }
}

/* Write the curves of some runs to rows of `out`.

   The value of a cell is that of its line at its distance from the beginning of the line. An observation is a line
   whose slope is -0.0, so that its value stays as it is, and no value is a line that begins at NaN. */
DDE_EXPORT void dde_fill_lines(const int64_t *line, const double *distance, int64_t n_points, const int64_t *rows,
                               const int64_t *at, int64_t n_rows, const double *start, const double *slope,
                               double *out) {
    for (int64_t r = 0; r < n_rows; r++) {
        const int64_t *lines = line + rows[r] * n_points;
        const double *distances = distance + rows[r] * n_points;
        double *to = out + at[r] * n_points;
        for (int64_t k = 0; k < n_points; k++)
            to[k] = start[lines[k]] + slope[lines[k]] * distances[k];
    }
}
