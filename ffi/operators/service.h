/* SPDX-License-Identifier: Apache-2.0 */
/* How long a worker needs, from the tables. */
#ifndef MPSAFE_OPERATORS_SERVICE_H
#define MPSAFE_OPERATORS_SERVICE_H

#include <math.h>
#include <stdint.h>

#include "simulator.h"

static const double GAP_LEAST_S = 1e-6;
static const double GAP_BINS_PER_E = 160; /* a bin is 1/160 wide, of itself */

static inline int64_t cell(double x, const double *places, int64_t size)
{
    int64_t low = 0, high = size - 1;

    while (high - low > 1) {
        int64_t middle = (low + high) / 2;

        if (places[middle] <= x)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* The first value holds before its place; the last two go on beyond the end. */
static inline double at(double x, const double *places, int64_t size)
{
    const double *values = places + size;
    int64_t low;

    if (size == 0)
        return 0;
    if (size == 1 || x <= places[0])
        return values[0];
    low = cell(x, places, size);
    return fmax(0, values[low] + (values[low + 1] - values[low]) * (x - places[low]) / (places[low + 1] - places[low]));
}

/* What depends on the number of tokens only. */
static inline double linear_s(const struct simulation *s, int64_t table, double tokens)
{
    return at(tokens, s->grid + s->tables[table].linear, s->tables[table].linear_size);
}

/* The attention of a prompt's first tokens. */
static inline double prefill_s(const struct simulation *s, int64_t table, int64_t tokens)
{
    return tokens == 0 ? 0 : at((double)tokens, s->grid + s->tables[table].prefill, s->tables[table].prefill_size);
}

/* The attention of one token each of sequences with so much context in the mean. */
static inline double decode_s(const struct simulation *s, int64_t table, double sequences, double context)
{
    const struct table *t = &s->tables[table];
    const double *rows = s->grid + t->sequences, *columns = s->grid + t->context, *values = columns + t->context_size;
    int64_t row = cell(sequences, rows, t->sequences_size), column = cell(context, columns, t->context_size);
    double down = 0, right = 0, first, second;
    int64_t next_row = 0, next_column = 0;

    if (t->sequences_size == 0 || t->context_size == 0)
        return 0;
    if (t->sequences_size > 1) {
        down = fmax(0, (sequences - rows[row]) / (rows[row + 1] - rows[row]));
        next_row = t->context_size;
    }
    if (t->context_size > 1) {
        right = fmax(0, (context - columns[column]) / (columns[column + 1] - columns[column]));
        next_column = 1;
    }
    values += row * t->context_size + column;
    first = values[0] + right * (values[next_column] - values[0]);
    values += next_row;
    second = values[0] + right * (values[next_column] - values[0]);
    return fmax(0, first + down * (second - first));
}

/* So many tokens came that long after the ones before them. */
static inline void add_gap(struct simulation *s, double seconds, int64_t tokens)
{
    double bin = log(fmax(seconds, GAP_LEAST_S) / GAP_LEAST_S) * GAP_BINS_PER_E;

    s->gaps_s += seconds * (double)tokens;
    s->gaps_count += (double)tokens;
    s->gaps[bin < GAP_BINS - 1 ? (int64_t)bin : GAP_BINS - 1] += (double)tokens;
}

#endif
