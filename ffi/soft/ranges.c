/* SPDX-License-Identifier: Apache-2.0 */
#include "ranges.h"

#include <stdlib.h>
#include <string.h>

size_t ranges_after(const struct ranges *ranges, uint64_t address)
{
    size_t low = 0, high = ranges->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct range *range = &ranges->items[middle];
        if (range->address + range->bytes > address)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

struct range *ranges_holding(const struct ranges *ranges, uint64_t address, uint64_t bytes)
{
    size_t index = ranges_after(ranges, address);
    if (index == ranges->count)
        return NULL;
    struct range *range = &ranges->items[index];
    if (address < range->address || bytes > range->bytes || address - range->address > range->bytes - bytes)
        return NULL;
    return range;
}

bool ranges_touch(const struct ranges *ranges, uint64_t address, uint64_t bytes)
{
    size_t index = ranges_after(ranges, address);
    if (index == ranges->count)
        return false;
    uint64_t start = ranges->items[index].address;
    return start <= address || start - address < bytes;
}

bool ranges_cover(const struct ranges *ranges, uint64_t address, uint64_t bytes, size_t *first, size_t *end)
{
    size_t index = *first = ranges_after(ranges, address);
    while (bytes) {
        if (index == ranges->count || ranges->items[index].address != address || ranges->items[index].bytes > bytes)
            return false;
        address += ranges->items[index].bytes;
        bytes -= ranges->items[index].bytes;
        index++;
    }
    *end = index;
    return index > *first;
}

CUresult ranges_insert(struct ranges *ranges, struct range range)
{
    if (ranges->count == ranges->room) {
        size_t room = ranges->room ? 2 * ranges->room : 64;
        struct range *items = realloc(ranges->items, room * sizeof(*items));
        if (!items)
            return CUDA_ERROR_OUT_OF_MEMORY;
        ranges->items = items;
        ranges->room = room;
    }
    size_t index = ranges_after(ranges, range.address);
    struct range *at = &ranges->items[index];
    memmove(at + 1, at, (ranges->count - index) * sizeof(*at));
    *at = range;
    ranges->count++;
    return CUDA_SUCCESS;
}

void ranges_remove(struct ranges *ranges, size_t index)
{
    struct range *at = &ranges->items[index];
    ranges->count--;
    memmove(at, at + 1, (ranges->count - index) * sizeof(*at));
}
