/* Correctly rounded sums over many terms, and rows of tables put into columns. */

#include "export.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { BLOCK = 256, MAX_PARTIALS = 64 };

/* The sum of n finite terms, rounded once: partial sums that do not overlap (Shewchuk 1997), added from the largest
   down, with a half-way case decided by what is left. */
static double exact_sum(const double *terms, int64_t n, int64_t step) {
    double partials[MAX_PARTIALS];
    int count = 0;
    for (int64_t i = 0; i < n; i++) {
        double x = terms[i * step];
        int kept = 0;
        for (int k = 0; k < count; k++) {
            double y = partials[k];
            if (fabs(x) < fabs(y)) {
                const double swap = x;
                x = y;
                y = swap;
            }
            const double high = x + y, low = y - (high - x);
            if (low != 0.0) partials[kept++] = low;
            x = high;
        }
        /* Doubles span 2098 bits: partials that do not overlap are fewer than 41. */
        if (kept >= MAX_PARTIALS) return NAN;
        partials[kept++] = x;
        count = kept;
    }
    if (count == 0) return 0.0;
    double high = partials[--count], low = 0.0;
    while (count > 0) {
        const double x = high, y = partials[--count];
        high = x + y;
        low = y - (high - x);
        if (low != 0.0) break;
    }
    if (count > 0 && ((low < 0.0 && partials[count - 1] < 0.0) || (low > 0.0 && partials[count - 1] > 0.0))) {
        const double twice = low * 2.0, x = high + twice;
        if (twice == x - high) high = x;
    }
    return high;
}

/* out[i] = correctly rounded sum over k of terms[k * step + i], divided by n_terms, for i below n.
   NaN where a term is NaN; where one is infinite the plain sum. */
DDE_EXPORT void dde_exact_means(const double *terms, int64_t n_terms, int64_t step, int64_t n, double *out) {
    double sum[BLOCK], error[BLOCK], lost[BLOCK];
    for (int64_t start = 0; start < n; start += BLOCK) {
        const int64_t size = n - start < BLOCK ? n - start : BLOCK;
        for (int64_t i = 0; i < size; i++) sum[i] = error[i] = lost[i] = 0.0;
        for (int64_t k = 0; k < n_terms; k++) {
            const double *row = terms + k * step + start;
            for (int64_t i = 0; i < size; i++) {
                /* What each addition rounds off is itself summed; what that rounds off tells whether all is known. */
                const double x = row[i], s = sum[i] + x, z = s - sum[i];
                const double off = (sum[i] - (s - z)) + (x - z);
                const double e = error[i] + off, y = e - error[i];
                lost[i] += fabs((error[i] - (e - y)) + (off - y));
                sum[i] = s;
                error[i] = e;
            }
        }
        for (int64_t i = 0; i < size; i++) {
            double total = sum[i] + error[i];
            if (!(lost[i] == 0.0)) {
                bool finite = true;
                for (int64_t k = 0; k < n_terms && finite; k++) finite = isfinite(terms[k * step + start + i]);
                if (finite) {
                    total = exact_sum(terms + start + i, n_terms, step);
                } else {
                    total = 0.0;
                    for (int64_t k = 0; k < n_terms; k++) total += terms[k * step + start + i];
                }
            }
            out[start + i] = total / (double)n_terms;
        }
    }
}

/* out[base[r] + e * step] = table[r * width + e], for rows r with a base that is not negative. Rows that follow each
   other tend to go side by side, or to few places: entry by entry, what they write to stays in the cache. */
DDE_EXPORT void dde_scatter(const double *table, int64_t n, int64_t width, const int64_t *base, int64_t step,
                            double *out) {
    for (int64_t e = 0; e < width; e++)
        for (int64_t r = 0; r < n; r++)
            if (base[r] >= 0) out[base[r] + e * step] = table[r * width + e];
}
