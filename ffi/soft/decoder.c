/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE 1
#include "decoder.h"

#include <math.h>
#include <stdlib.h>

#include "warp.h"

/* The kernels of a small decoder, with the same order of adding as the PTX; exp() is exact where a GPU approximates. */

struct vectors {
    size_t n;
    float *room; /* three of n, one behind the other */
};

static bool vectors_make(const struct launch *launch, size_t n, struct vectors *made)
{
    made->n = n;
    made->room = calloc(3 * n + 1, sizeof(float));
    if (!made->room)
        warp_exception(launch->context, "trap", 0);
    return made->room;
}

static float *vector(const struct vectors *vectors, size_t which)
{
    return vectors->room + which * vectors->n;
}

static bool vector_read(const struct launch *launch, const struct vectors *vectors, size_t which, uint64_t from)
{
    return !warp_read(launch->context, vector(vectors, which), from, vectors->n * sizeof(float));
}

static void vector_write(const struct launch *launch, const struct vectors *vectors, uint64_t to)
{
    warp_write(launch->context, to, vectors->room, vectors->n * sizeof(float));
}

void kernel_accumulate(const struct launch *launch)
{
    const union argument *argument = launch->arguments;
    struct vectors v;
    if (!vectors_make(launch, argument[2].u32, &v))
        return;
    if (vector_read(launch, &v, 0, argument[0].u64) && vector_read(launch, &v, 1, argument[1].u64)) {
        for (size_t i = 0; i < v.n; i++)
            vector(&v, 0)[i] += vector(&v, 1)[i];
        vector_write(launch, &v, argument[0].u64);
    }
    free(v.room);
}

void kernel_rms_norm(const struct launch *launch)
{
    const union argument *argument = launch->arguments;
    struct vectors v;
    if (!vectors_make(launch, argument[3].u32, &v))
        return;
    if (vector_read(launch, &v, 0, argument[1].u64) && vector_read(launch, &v, 1, argument[2].u64)) {
        float sum = 0;
        for (size_t i = 0; i < v.n; i++)
            sum = fmaf(vector(&v, 0)[i], vector(&v, 0)[i], sum);
        float root = sqrtf(sum / (float)v.n + 1e-5f);
        for (size_t i = 0; i < v.n; i++)
            vector(&v, 0)[i] = vector(&v, 0)[i] / root * vector(&v, 1)[i];
        vector_write(launch, &v, argument[0].u64);
    }
    free(v.room);
}

void kernel_gate(const struct launch *launch)
{
    const union argument *argument = launch->arguments;
    struct vectors v;
    if (!vectors_make(launch, argument[3].u32, &v))
        return;
    if (vector_read(launch, &v, 0, argument[1].u64) && vector_read(launch, &v, 1, argument[2].u64)) {
        for (size_t i = 0; i < v.n; i++) {
            float a = vector(&v, 0)[i];
            vector(&v, 0)[i] = a / (1 + expf(-a)) * vector(&v, 1)[i];
        }
        vector_write(launch, &v, argument[0].u64);
    }
    free(v.room);
}

static float score(const float *q, const float *k, size_t head, float scale)
{
    float sum = 0;
    for (size_t i = 0; i < head; i++)
        sum = fmaf(q[i], k[i], sum);
    return sum * scale;
}

void kernel_attend(const struct launch *launch)
{
    const union argument *argument = launch->arguments;
    size_t tokens = argument[3].u32, stride = argument[4].u32, dim = argument[5].u32, head = argument[6].u32;
    float scale = argument[7].f32;
    if (!tokens || !head || dim % head)
        return;
    size_t cached = (tokens - 1) * stride + 2 * dim;
    float *q = calloc(2 * dim + cached + tokens, sizeof(float));
    if (!q) {
        warp_exception(launch->context, "trap", 0);
        return;
    }
    float *out = q + dim, *kv = out + dim, *weights = kv + cached;
    if (warp_read(launch->context, q, argument[1].u64, dim * sizeof(float)) ||
        warp_read(launch->context, kv, argument[2].u64, cached * sizeof(float)))
        goto end;
    for (size_t h = 0; h < dim; h += head) {
        float most = -INFINITY, total = 0;
        for (size_t j = 0; j < tokens; j++)
            most = fmaxf(most, weights[j] = score(q + h, kv + j * stride + h, head, scale));
        for (size_t j = 0; j < tokens; j++)
            total += weights[j] = expf(weights[j] - most);
        for (size_t i = h; i < h + head; i++) {
            for (size_t j = 0; j < tokens; j++)
                out[i] = fmaf(weights[j], kv[j * stride + dim + i], out[i]);
            out[i] /= total;
        }
    }
    warp_write(launch->context, argument[0].u64, out, dim * sizeof(float));
end:
    free(q);
}

void kernel_argmax(const struct launch *launch)
{
    const union argument *argument = launch->arguments;
    struct vectors v;
    if (!vectors_make(launch, argument[2].u32, &v))
        return;
    if (vector_read(launch, &v, 0, argument[1].u64)) {
        uint32_t best = 0;
        for (uint32_t i = 1; i < v.n; i++)
            if (vector(&v, 0)[i] > vector(&v, 0)[best])
                best = i;
        warp_write(launch->context, argument[0].u64, &best, sizeof(best));
    }
    free(v.room);
}
