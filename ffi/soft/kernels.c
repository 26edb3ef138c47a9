/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE 1
#include "kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "decoder.h"
#include "warp.h"

#define BLOCK 4096 /* elements at a time */

/* As many elements as there are threads for. */
static uint64_t covered(const struct launch *launch, uint64_t elements)
{
    return elements < launch->threads ? elements : launch->threads;
}

static void affine(const struct launch *launch)
{
    const union argument *argument = launch->arguments;
    uint64_t out = argument[0].u64, in = argument[1].u64, left = covered(launch, argument[2].u32);
    float a = argument[3].f32, b = argument[4].f32, values[BLOCK];
    while (left) {
        size_t part = left < BLOCK ? left : BLOCK;
        if (warp_read(launch->context, values, in, part * sizeof(float)))
            return;
        for (size_t i = 0; i < part; i++)
            values[i] = fmaf(a, values[i], b);
        if (warp_write(launch->context, out, values, part * sizeof(float)))
            return;
        in += part * sizeof(float);
        out += part * sizeof(float);
        left -= part;
    }
}

/* Columns in order and one rounding a column, as the PTX does it. */
static float dot(const float *w, const float *x, size_t columns)
{
    float sum = 0;
    for (size_t i = 0; i < columns; i++)
        sum = fmaf(w[i], x[i], sum);
    return sum;
}

static void matvec(const struct launch *launch)
{
    const union argument *argument = launch->arguments;
    uint64_t y = argument[0].u64, w = argument[1].u64, rows = covered(launch, argument[3].u32);
    size_t columns = argument[4].u32;
    float *x = malloc(2 * columns * sizeof(float) + 1);
    if (!x) {
        warp_exception(launch->context, "trap", 0);
        return;
    }
    float *row = x + columns;
    CUresult result = warp_read(launch->context, x, argument[2].u64, columns * sizeof(float));
    for (uint64_t i = 0; !result && i < rows; i++) {
        result = warp_read(launch->context, row, w + i * columns * sizeof(float), columns * sizeof(float));
        float sum = result ? 0 : dot(row, x, columns);
        if (!result)
            result = warp_write(launch->context, y + i * sizeof(float), &sum, sizeof(sum));
    }
    free(x);
}

static void fill(const struct launch *launch)
{
    const union argument *argument = launch->arguments;
    warp_fill(launch->context, argument[0].u64, argument[2].u32, sizeof(uint32_t),
              covered(launch, argument[1].u64));
}

/* Adds to what is there, which no other kernel does at the same time: streams run one kernel at a time. */
static void checksum(const struct launch *launch)
{
    const union argument *argument = launch->arguments;
    uint64_t p = argument[0].u64, words = argument[1].u64, index = argument[2].u64, out = argument[3].u64;
    uint64_t sum = 0, before;
    uint32_t values[BLOCK];
    while (words) {
        size_t part = words < BLOCK ? words : BLOCK;
        if (warp_read(launch->context, values, p, part * sizeof(*values)))
            return;
        for (size_t i = 0; i < part; i++) {
            uint64_t x = ((uint64_t)values[i] + 1) * ((++index) * 0x9e3779b97f4a7c15);
            sum += x ^ x >> 32;
        }
        p += part * sizeof(*values);
        words -= part;
    }
    if (warp_read(launch->context, &before, out, sizeof(before)))
        return;
    sum += before;
    warp_write(launch->context, out, &sum, sizeof(sum));
}

static void read_address(const struct launch *launch)
{
    uint32_t value;
    if (!warp_read(launch->context, &value, launch->arguments[0].u64, sizeof(value)))
        warp_write(launch->context, launch->arguments[1].u64, &value, sizeof(value));
}

static void write_address(const struct launch *launch)
{
    warp_write(launch->context, launch->arguments[0].u64, &launch->arguments[1].u32, sizeof(uint32_t));
}

static void misaligned(const struct launch *launch)
{
    uint32_t value;
    uint64_t address = launch->arguments[0].u64 + 1;
    if (address % sizeof(value))
        warp_exception(launch->context, "misaligned", address);
    else
        warp_read(launch->context, &value, address, sizeof(value));
}

static void trap(const struct launch *launch)
{
    warp_exception(launch->context, "trap", 0);
}

static void illegal_instruction(const struct launch *launch)
{
    warp_exception(launch->context, "illegal_instruction", 0);
}

/* Looks at the flag every 100 microseconds: a core of this machine is dearer than one SM. */
static void endless(const struct launch *launch)
{
    const struct timespec pause = {.tv_nsec = 100000};
    uint32_t value = 0;
    while (!warp_read(launch->context, &value, launch->arguments[0].u64, sizeof(value)) && !value &&
           context_alive(launch->context))
        nanosleep(&pause, NULL);
}

/* As seldom as the one above: what counts is that the word moves on. */
static void ticking(const struct launch *launch)
{
    const struct timespec pause = {.tv_nsec = 100000};
    uint32_t value = 0;
    while (!warp_read(launch->context, &value, launch->arguments[0].u64, sizeof(value)) && value++ &&
           !warp_write(launch->context, launch->arguments[0].u64, &value, sizeof(value)) &&
           context_alive(launch->context))
        nanosleep(&pause, NULL);
}

static const struct kernel kernels[] = {
    {"accumulate", "QQI", kernel_accumulate},
    {"affine", "QQIFF", affine},
    {"argmax", "QQI", kernel_argmax},
    {"attend", "QQQIIIIF", kernel_attend},
    {"checksum", "QQQQ", checksum},
    {"endless", "Q", endless},
    {"fill", "QQI", fill},
    {"gate", "QQQI", kernel_gate},
    {"illegal_instruction", "", illegal_instruction},
    {"matvec", "QQQII", matvec},
    {"misaligned", "Q", misaligned},
    {"read_address", "QQ", read_address},
    {"rms_norm", "QQQI", kernel_rms_norm},
    {"ticking", "Q", ticking},
    {"trap", "", trap},
    {"write_address", "QI", write_address},
};

const struct kernel *kernel_find(const char *name)
{
    for (size_t i = 0; i < sizeof(kernels) / sizeof(kernels[0]); i++)
        if (!strcmp(kernels[i].name, name))
            return &kernels[i];
    return NULL;
}
