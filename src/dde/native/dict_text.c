/* Texts of Python dicts or JSON objects of numbers, parsed without an object per text. */

#include "export.h"
#include "numbers.h"

uint64_t dde_powers_of_five[DDE_POWER_MAX - DDE_POWER_MIN + 1][2];

DDE_EXPORT int32_t dde_interface(void) { return DDE_INTERFACE; }

DDE_EXPORT void dde_set_powers(const uint64_t *powers) {
    memcpy(dde_powers_of_five, powers, sizeof dde_powers_of_five);
}

enum { MAX_KEYS = 256, BUCKETS = 1024 };

typedef struct {
    const uint8_t *text;
    int32_t length;
    int32_t next; /* the key that followed it in the last text */
} Key;

typedef struct {
    Key keys[MAX_KEYS + 1]; /* the last one stands for the beginning of a text */
    int16_t bucket[BUCKETS];
    int32_t count;
} Keys;

static uint32_t hashed(const uint8_t *text, int32_t length) {
    uint32_t hash = 2166136261u;
    for (int32_t i = 0; i < length; i++) hash = (hash ^ text[i]) * 16777619u;
    return hash % BUCKETS;
}

/* Number of a key, which is added where it is new; -1 where there is no room for it. */
static int32_t find_key(Keys *keys, const uint8_t *text, int32_t length) {
    uint32_t at = hashed(text, length);
    for (int32_t number; (number = keys->bucket[at]) >= 0; at = (at + 1) % BUCKETS) {
        if (keys->keys[number].length == length && memcmp(keys->keys[number].text, text, (size_t)length) == 0)
            return number;
    }
    if (keys->count == MAX_KEYS) return -1;
    keys->keys[keys->count] = (Key){text, length, -1};
    keys->bucket[at] = (int16_t)keys->count;
    return keys->count++;
}

static const uint8_t *skip_space(const uint8_t *p, const uint8_t *end) {
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')) p++;
    return p;
}

/* Parse one text into row; false where it needs the strict grammar, and row is then half filled. */
static bool parse_text(Keys *keys, const uint8_t *p, const uint8_t *end, int32_t n_wanted, double *row) {
    uint64_t seen[MAX_KEYS / 64] = {0};
    int32_t previous = MAX_KEYS;
    p = skip_space(p, end);
    if (p >= end || *p++ != '{') return false;
    for (;;) {
        p = skip_space(p, end);
        if (p >= end || (*p != '\'' && *p != '"')) return false;
        const uint8_t quote = *p++;
        int32_t number = keys->keys[previous].next;
        const Key *likely = number >= 0 ? &keys->keys[number] : NULL;
        if (likely && end - p > likely->length && p[likely->length] == quote &&
            memcmp(p, likely->text, (size_t)likely->length) == 0) {
            p += likely->length;
        } else {
            const uint8_t *start = p;
            /* Escapes, and bytes beyond ASCII, which may be no text at all, are for the strict grammar. */
            while (p < end && *p != quote && *p != '\n' && *p != '\\' && *p < 0x80) p++;
            if (p >= end || *p != quote || p - start > INT32_MAX) return false;
            number = find_key(keys, start, (int32_t)(p - start));
            if (number < 0) return false;
            keys->keys[previous].next = number;
        }
        p++;
        if (seen[number / 64] >> (number % 64) & 1) return false;
        seen[number / 64] |= 1ull << (number % 64);
        previous = number;
        p = skip_space(p, end);
        if (p >= end || *p++ != ':') return false;
        p = skip_space(p, end);
        double value;
        const uint8_t *behind = dde_number(p, end, &value);
        if (!behind) {
            if (end - p < 4 || (memcmp(p, "None", 4) != 0 && memcmp(p, "null", 4) != 0)) return false;
            behind = p + 4;
            const uint64_t missing = 0x7FF8000000000000u;
            memcpy(&value, &missing, 8);
        }
        if (number < n_wanted) row[number] = value;
        p = skip_space(behind, end);
        if (p >= end) return false;
        if (*p == '}') return skip_space(p + 1, end) == end;
        if (*p++ != ',') return false;
    }
}

/* Parse n texts: text i is data[offsets[i]] to data[offsets[i + 1]], and its values of the n_wanted keys go to
   out[target[i] * stride + key]; what it lacks stays as it is. A text with target -1 is passed over. Of a text that
   needs the strict grammar `unread` becomes 1 and its row holds nothing; returns how many these are, -1 where the
   wanted keys are too many or repeat. */
DDE_EXPORT int64_t dde_parse_dicts(const uint8_t *data, const int64_t *offsets, int64_t n, const uint8_t *wanted,
                                   const int32_t *wanted_offsets, int32_t n_wanted, const int64_t *target, double *out,
                                   int64_t stride, uint8_t *unread) {
    Keys keys;
    keys.count = 0;
    memset(keys.bucket, -1, sizeof keys.bucket);
    keys.keys[MAX_KEYS] = (Key){NULL, 0, -1};
    if (n_wanted > MAX_KEYS / 2) return -1;
    for (int32_t i = 0; i < n_wanted; i++) {
        const int32_t length = wanted_offsets[i + 1] - wanted_offsets[i];
        if (find_key(&keys, wanted + wanted_offsets[i], length) != i) return -1;
    }
    const uint64_t missing = 0x7FF8000000000000u;
    int64_t left = 0;
    for (int64_t i = 0; i < n; i++) {
        if (target[i] < 0) continue;
        double *row = out + target[i] * stride;
        for (int32_t k = 0; k < n_wanted; k++) memcpy(row + k, &missing, 8);
        if (!parse_text(&keys, data + offsets[i], data + offsets[i + 1], n_wanted, row)) {
            for (int32_t k = 0; k < n_wanted; k++) memcpy(row + k, &missing, 8);
            unread[i] = 1;
            left++;
        }
    }
    return left;
}
