/* SPDX-License-Identifier: Apache-2.0 */
/* The products of core.cdef.h. Compiled with -ffast-math. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core.cdef.h"
#include "fast.h"

enum { AHEAD = 8 }; /* rows that the cache is told of before they are read */

FAST void regression_row(const float *probabilities, int experts, const float *token, int token_count,
                         const float *ahead, int ahead_count, float least, float *row)
{
    if (probabilities)
        for (int e = 0; e < experts; e++)
            *row++ = logf(probabilities[e] + least);
    memcpy(row, token, token_count * sizeof *row);
    row += token_count;
    for (int at = 0; at < ahead_count; at++)
        row[at] = logf(ahead[at] + least);
}

static inline float wide(uint16_t half)
{
    union {
        uint32_t bits;
        float value;
    } found = {.bits = (uint32_t)half << 16};
    return found.value;
}

FAST void to_bfloat16(const float *values, size_t count, uint16_t *found)
{
    for (size_t at = 0; at < count; at++) {
        uint32_t bits;
        memcpy(&bits, values + at, sizeof bits);
        found[at] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
}

FAST void regression_predict(const float *row, int rows, const uint16_t *solution, int columns, float least,
                             float *found)
{
    int at = 0;
    memset(found, 0, columns * sizeof *found);
    for (; at + 4 <= rows; at += 4) {
        const uint16_t *a = solution + (size_t)at * columns, *b = a + columns, *c = b + columns, *d = c + columns;
        for (int column = 0; column < columns; column++)
            found[column] += row[at] * wide(a[column]) + row[at + 1] * wide(b[column]) +
                             row[at + 2] * wide(c[column]) + row[at + 3] * wide(d[column]);
    }
    for (; at < rows; at++)
        for (int column = 0; column < columns; column++)
            found[column] += row[at] * wide(solution[(size_t)at * columns + column]);
    for (int column = 0; column < columns; column++)
        found[column] = found[column] < least ? least : found[column] > 1 ? 1 : found[column];
}

FAST void rows_dot(const uint16_t *matrix, const int64_t *places, int count, int columns, const float *row,
                   float *found)
{
    for (int at = 0; at < count; at++) {
        const uint16_t *one = matrix + (places ? places[at] : at) * columns;
        float sum = 0;
        if (places && at + AHEAD < count)
            __builtin_prefetch(matrix + places[at + AHEAD] * columns);
        for (int column = 0; column < columns; column++)
            sum += wide(one[column]) * row[column];
        found[at] = sum;
    }
}

FAST void rows_near(const uint16_t *matrix, const float *norms, const int64_t *places, int count, int columns,
                    const float *row, float length, float *sums, float *scores)
{
    rows_dot(matrix, places, count, columns, row, scores);
    for (int at = 0; at < count; at++) {
        sums[at] += scores[at];
        scores[at] = sums[at] / (norms[places ? places[at] : at] * length + 1e-12f);
    }
}

FAST void rows_blend(const uint16_t *matrices, int capacity, int layers, int columns, const int64_t *places,
                     const float *scores, int count, int neighbours, float sharpness, int64_t *scratch, float *found)
{
    int nearest = 0;
    float total = 0;
    for (int at = 0; at < count; at++) {
        int slot;
        if (nearest == neighbours && !(scores[at] > scores[scratch[nearest - 1]]))
            continue;
        if (nearest < neighbours)
            nearest++;
        for (slot = nearest - 1; slot > 0 && scores[at] > scores[scratch[slot - 1]]; slot--)
            scratch[slot] = scratch[slot - 1];
        scratch[slot] = at;
    }
    memset(found, 0, (size_t)layers * columns * sizeof *found);
    for (int slot = 0; slot < nearest; slot++) {
        float weight = expf(sharpness * (scores[scratch[slot]] - scores[scratch[0]]));
        int64_t place = places ? places[scratch[slot]] : scratch[slot];
        total += weight;
        for (int layer = 0; layer < layers; layer++) {
            const uint16_t *one = matrices + ((int64_t)layer * capacity + place) * columns;
            for (int column = 0; column < columns; column++)
                found[layer * columns + column] += weight * wide(one[column]);
        }
    }
    for (int at = 0; at < layers * columns && total > 0; at++)
        found[at] /= total;
}
