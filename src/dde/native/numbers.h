/* Decimal text to the nearest double, without locale, allocation or a copy of the text.

   Up to 19 significant digits are read as a whole number w and a power of ten q. Where both are small one operation
   rounds correctly (Clinger 1990); elsewhere w times a 128-bit power of five does (Lemire 2021, "Number parsing at a
   gigabyte per second"; that it always does: Mushtak and Lemire 2023, "Fast number parsing without fallback"). More
   digits, and numbers beyond the range of normal doubles, are for the caller to read by other means. */

#ifndef DDE_NUMBERS_H
#define DDE_NUMBERS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "eight digits are read as one little-endian word"
#endif

enum { DDE_POWER_MIN = -342, DDE_POWER_MAX = 308 };

/* More and less significant half of the 128 leading bits of 5^q, q from DDE_POWER_MIN on; cut off, but rounded up from
   -27 to -1, where products may be exact. */
extern uint64_t dde_powers_of_five[DDE_POWER_MAX - DDE_POWER_MIN + 1][2];

static inline bool dde_is_digit(uint8_t c) { return (uint8_t)(c - '0') < 10; }

static inline bool dde_are_eight_digits(uint64_t word) {
    return ((word & 0xF0F0F0F0F0F0F0F0u) | (((word + 0x0606060606060606u) & 0xF0F0F0F0F0F0F0F0u) >> 4)) ==
           0x3333333333333333u;
}

/* Pairs of digits, then of pairs, then of fours are joined, all at once. */
static inline uint64_t dde_eight_digits(uint64_t word) {
    word -= 0x3030303030303030u;
    word = word * 10 + (word >> 8);
    const uint64_t first = (word & 0x000000FF000000FFu) * 0x000F424000000064u;
    const uint64_t second = ((word >> 16) & 0x000000FF000000FFu) * 0x0000271000000001u;
    return (first + second) >> 32;
}

/* Read digits from p on, adding them to *w; returns where they end. */
static inline const uint8_t *dde_digits(const uint8_t *p, const uint8_t *end, uint64_t *w) {
    while (end - p >= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        if (!dde_are_eight_digits(word)) break;
        *w = *w * 100000000u + dde_eight_digits(word);
        p += 8;
    }
    while (p < end && dde_is_digit(*p)) *w = *w * 10 + (uint64_t)(*p++ - '0');
    return p;
}

/* w x 10^q as the nearest double; false where it can't be told here. w is not 0. */
static inline bool dde_scaled(uint64_t w, int64_t q, double *value) {
    static const double exact[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                   1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    if (w <= (1ull << 53) && q >= -22 && q <= 22) {
        *value = q < 0 ? (double)w / exact[-q] : (double)w * exact[q];
        return true;
    }
    if (q < DDE_POWER_MIN || q > DDE_POWER_MAX) return false;
    const int zeros = __builtin_clzll(w);
    w <<= zeros;
    const uint64_t *power = dde_powers_of_five[q - DDE_POWER_MIN];
    const unsigned __int128 product = (unsigned __int128)w * power[0];
    uint64_t high = (uint64_t)(product >> 64), low = (uint64_t)product;
    /* Where what was cut off could carry into the bits that count, the rest of the power is multiplied, too. */
    if ((high & 0x1FF) == 0x1FF) {
        const uint64_t rest = (uint64_t)(((unsigned __int128)w * power[1]) >> 64);
        low += rest;
        if (low < rest) high++;
    }
    const unsigned top = (unsigned)(high >> 63), dropped = top + 9;
    uint64_t mantissa = high >> dropped;
    /* 217706 / 2^16 is log2(10), to the digits that these powers need. */
    int64_t exponent = ((217706 * q) >> 16) + 1023 + 64 - zeros - (int64_t)(1 - top);
    if (exponent < 1) return false;
    /* Only within these powers can a number of 64 bits lie in the very middle: then the even neighbour is nearest. */
    if (low <= 1 && q >= -4 && q <= 23 && (mantissa & 3) == 1 && mantissa << dropped == high) mantissa &= ~1ull;
    mantissa = (mantissa + (mantissa & 1)) >> 1;
    if (mantissa >> 53) {
        mantissa >>= 1;
        exponent++;
    }
    if (exponent > 2046) return false;
    const uint64_t bits = ((uint64_t)exponent << 52) | (mantissa & 0x000FFFFFFFFFFFFFull);
    memcpy(value, &bits, 8);
    return true;
}

/* Read a number at p; returns where it ends, NULL where there is none that can be told here.
   A number is [-+]?(digits[.digits] | .digits)([eE][-+]?digits)?, as Python and JSON write it, or nan, NaN, inf,
   Infinity. */
static inline const uint8_t *dde_number(const uint8_t *p, const uint8_t *end, double *value) {
    bool negative = false;
    if (p < end && (*p == '-' || *p == '+')) negative = *p++ == '-';
    if (p >= end) return NULL;
    uint64_t w = 0;
    const uint8_t *start = p;
    p = dde_digits(p, end, &w);
    int64_t digits = p - start, q = 0;
    bool is_whole = true;
    if (p < end && *p == '.') {
        is_whole = false;
        const uint8_t *fraction = ++p;
        p = dde_digits(p, end, &w);
        q = fraction - p;
        digits += p - fraction;
    }
    if (digits == 0) {
        const int64_t room = end - start;
        uint64_t bits;
        if (room >= 3 && (memcmp(start, "nan", 3) == 0 || memcmp(start, "NaN", 3) == 0)) {
            bits = 0x7FF8000000000000u;
            p = start + 3;
        } else if (room >= 8 && memcmp(start, "Infinity", 8) == 0) {
            bits = 0x7FF0000000000000u;
            p = start + 8;
        } else if (room >= 3 && memcmp(start, "inf", 3) == 0) {
            bits = 0x7FF0000000000000u;
            p = start + 3;
        } else {
            return NULL;
        }
        memcpy(value, &bits, 8);
        if (negative) *value = -*value;
        return p;
    }
    if (digits > 19) {
        /* Leading zeros, as in 0.0000123, are no digits that count; a sum of 20 and more may have overflown. */
        const uint8_t *first = start;
        while (first < p && (*first == '0' || *first == '.')) digits -= *first++ == '0';
        if (digits > 19) return NULL;
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        is_whole = false;
        p++;
        bool below = false;
        if (p < end && (*p == '-' || *p == '+')) below = *p++ == '-';
        if (p >= end || !dde_is_digit(*p)) return NULL;
        int64_t power = 0;
        while (p < end && dde_is_digit(*p)) {
            if (power < 100000) power = power * 10 + (*p - '0');
            p++;
        }
        q += below ? -power : power;
    }
    if (w == 0) {
        /* A whole number has no negative zero. */
        *value = negative && !is_whole ? -0.0 : 0.0;
        return p;
    }
    if (!dde_scaled(w, q, value)) return NULL;
    if (negative) *value = -*value;
    return p;
}

#endif
