/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE 1
#include "space.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#define READ CU_MEM_ACCESS_FLAGS_PROT_READ
#define READWRITE CU_MEM_ACCESS_FLAGS_PROT_READWRITE

/* Readers are the warps: no memory goes away between the check of an access and the access. */
static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static struct ranges reservations;
static struct ranges mappings;

static void space_lock(void)
{
    pthread_rwlock_wrlock(&lock);
}

static CUresult space_unlock(CUresult result)
{
    pthread_rwlock_unlock(&lock);
    return result;
}

static bool is_multiple(uint64_t value, uint64_t of)
{
    return value % of == 0;
}

/* Addresses that nothing else in this process gets. */
static void *addresses_take(uint64_t bytes, uint64_t alignment, uint64_t hint)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (hint && is_multiple(hint, alignment)) {
        void *wanted = (void *)(uintptr_t)hint;
        void *at = mmap(wanted, bytes, PROT_NONE, flags | MAP_FIXED_NOREPLACE, -1, 0);
        if (at == wanted)
            return at;
        if (at != MAP_FAILED) /* a kernel before 4.17 takes the flag for a hint */
            munmap(at, bytes);
    }
    char *wide = mmap(NULL, bytes + alignment, PROT_NONE, flags, -1, 0);
    if (wide == MAP_FAILED)
        return NULL;
    char *at = wide + (alignment - (uintptr_t)wide % alignment) % alignment;
    if (at > wide)
        munmap(wide, (size_t)(at - wide));
    munmap(at + bytes, alignment - (size_t)(at - wide));
    return at;
}

/* Takes the memory away from addresses that stay reserved. */
static void memory_remove(const struct range *range)
{
    mmap((void *)(uintptr_t)range->address, range->bytes, PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

CUresult space_reserve(uint64_t bytes, uint64_t alignment, uint64_t hint, uint64_t *ret)
{
    if (!alignment)
        alignment = SOFT_GRANULARITY;
    if (!bytes || !is_multiple(bytes, SOFT_GRANULARITY) || alignment & (alignment - 1) || bytes + alignment < bytes)
        return CUDA_ERROR_INVALID_VALUE;
    if (alignment < SOFT_GRANULARITY)
        alignment = SOFT_GRANULARITY;
    void *at = addresses_take(bytes, alignment, hint);
    if (!at)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *ret = (uintptr_t)at;
    space_lock();
    CUresult result = ranges_insert(&reservations, (struct range){.address = *ret, .bytes = bytes});
    if (result)
        munmap(at, bytes);
    return space_unlock(result);
}

CUresult space_free(uint64_t address, uint64_t bytes)
{
    space_lock();
    struct range *found = ranges_holding(&reservations, address, bytes);
    if (!found || found->address != address || found->bytes != bytes || ranges_touch(&mappings, address, bytes))
        return space_unlock(CUDA_ERROR_INVALID_VALUE);
    munmap((void *)(uintptr_t)address, bytes);
    ranges_remove(&reservations, (size_t)(found - reservations.items));
    return space_unlock(CUDA_SUCCESS);
}

CUresult space_map(uint64_t address, uint64_t bytes, struct allocation *allocation, struct CUctx_st *context)
{
    struct range range = {
        .address = address,
        .bytes = bytes,
        .kind = context ? RANGE_PLAIN : RANGE_MAPPED,
        .allocation = allocation,
        .context = context,
    };
    if (!bytes || !is_multiple(address | bytes, SOFT_GRANULARITY) || bytes > allocation->bytes)
        return CUDA_ERROR_INVALID_VALUE;
    space_lock();
    if (!ranges_holding(&reservations, address, bytes) || ranges_touch(&mappings, address, bytes))
        return space_unlock(CUDA_ERROR_INVALID_VALUE);
    if (mmap((void *)(uintptr_t)address, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, allocation->fd, 0) == MAP_FAILED)
        return space_unlock(CUDA_ERROR_OUT_OF_MEMORY);
    CUresult result = ranges_insert(&mappings, range);
    if (result)
        memory_remove(&range);
    return space_unlock(result);
}

static void mapping_remove(size_t index)
{
    struct range *range = &mappings.items[index];
    memory_remove(range);
    allocation_unpin(range->allocation);
    ranges_remove(&mappings, index);
}

CUresult space_unmap(uint64_t address, uint64_t bytes)
{
    size_t first, end;
    space_lock();
    if (!ranges_cover(&mappings, address, bytes, &first, &end))
        return space_unlock(CUDA_ERROR_INVALID_VALUE);
    for (size_t i = first; i < end; i++)
        if (mappings.items[i].kind != RANGE_MAPPED)
            return space_unlock(CUDA_ERROR_INVALID_VALUE);
    while (end-- > first)
        mapping_remove(end);
    return space_unlock(CUDA_SUCCESS);
}

/* Memory by cuMemAlloc is one mapping in one reservation of the same size. */
static void plain_remove(size_t index)
{
    struct range plain = mappings.items[index];
    struct range *reserved = ranges_holding(&reservations, plain.address, plain.bytes);
    mapping_remove(index);
    munmap((void *)(uintptr_t)plain.address, plain.bytes);
    ranges_remove(&reservations, (size_t)(reserved - reservations.items));
}

CUresult space_unmap_plain(uint64_t address)
{
    space_lock();
    struct range *found = ranges_holding(&mappings, address, 1);
    if (!found || found->kind != RANGE_PLAIN || found->address != address)
        return space_unlock(CUDA_ERROR_INVALID_VALUE);
    plain_remove((size_t)(found - mappings.items));
    return space_unlock(CUDA_SUCCESS);
}

void space_unmap_context(const struct CUctx_st *context)
{
    space_lock();
    for (size_t i = mappings.count; i-- > 0;)
        if (mappings.items[i].kind == RANGE_PLAIN && mappings.items[i].context == context)
            plain_remove(i);
    space_unlock(CUDA_SUCCESS);
}

/* The host may do what any device may: it stands for all of them. */
static void host_protect(const struct range *range)
{
    unsigned char access = 0;
    for (int i = 0; i < SOFT_DEVICES_MAX; i++)
        access |= range->access[i];
    int protection = access == READWRITE ? PROT_READ | PROT_WRITE : access == READ ? PROT_READ : PROT_NONE;
    mprotect((void *)(uintptr_t)range->address, range->bytes, protection);
}

CUresult space_set_access(uint64_t address, uint64_t bytes, CUdevice device, unsigned char access)
{
    size_t first, end;
    space_lock();
    if (!ranges_cover(&mappings, address, bytes, &first, &end))
        return space_unlock(CUDA_ERROR_INVALID_VALUE);
    for (size_t i = first; i < end; i++) {
        if (mappings.items[i].kind == RANGE_HOST)
            return space_unlock(CUDA_ERROR_INVALID_VALUE);
        mappings.items[i].access[device] = access;
        host_protect(&mappings.items[i]);
    }
    return space_unlock(CUDA_SUCCESS);
}

CUresult space_host_map(uint64_t bytes, void **ret)
{
    void *host = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (host == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    struct range range = {.address = (uintptr_t)host, .bytes = bytes, .kind = RANGE_HOST};
    memset(range.access, READWRITE, sizeof(range.access));
    space_lock();
    CUresult result = ranges_insert(&mappings, range);
    if (result)
        munmap(host, bytes);
    else
        *ret = host;
    return space_unlock(result);
}

CUresult space_host_unmap(void *host)
{
    space_lock();
    struct range *found = ranges_holding(&mappings, (uintptr_t)host, 1);
    if (!found || found->kind != RANGE_HOST || found->address != (uintptr_t)host)
        return space_unlock(CUDA_ERROR_INVALID_VALUE);
    munmap(host, found->bytes);
    ranges_remove(&mappings, (size_t)(found - mappings.items));
    return space_unlock(CUDA_SUCCESS);
}

bool space_find(uint64_t address, uint64_t bytes, struct range *ret)
{
    pthread_rwlock_rdlock(&lock);
    const struct range *found = ranges_holding(&mappings, address, bytes);
    if (found)
        *ret = *found;
    pthread_rwlock_unlock(&lock);
    return found;
}

bool space_mapped(uint64_t address, uint64_t bytes)
{
    struct range found;
    while (bytes) {
        if (!space_find(address, 1, &found))
            return false;
        uint64_t run = found.address + found.bytes - address;
        if (run >= bytes)
            return true;
        address += run;
        bytes -= run;
    }
    return true;
}

/* With the lock held: what an access to `address` meets, and for how many of the bytes the same. */
static enum space_state space_look(CUdevice device, uint64_t address, size_t bytes, bool write, size_t *run)
{
    size_t index = ranges_after(&mappings, address);
    const struct range *range = index < mappings.count ? &mappings.items[index] : NULL;
    bool mapped = range && range->address <= address;
    uint64_t border = mapped ? range->address + range->bytes : range ? range->address : UINT64_MAX;
    *run = border - address < bytes ? border - address : bytes;
    if (!mapped)
        return ranges_holding(&reservations, address, 1) ? SPACE_NO_MEMORY : SPACE_NOTHING;
    unsigned char access = range->access[device];
    if (access == READWRITE || (access == READ && !write))
        return SPACE_GOOD;
    return access == READ ? SPACE_READ_ONLY : SPACE_NO_MEMORY;
}

enum space_state space_load(CUdevice device, void *to, uint64_t from, size_t bytes, size_t *done)
{
    pthread_rwlock_rdlock(&lock);
    enum space_state state = space_look(device, from, bytes, false, done);
    if (state == SPACE_GOOD)
        memcpy(to, (const void *)(uintptr_t)from, *done);
    pthread_rwlock_unlock(&lock);
    return state;
}

enum space_state space_store(CUdevice device, uint64_t to, const void *from, size_t bytes, size_t *done)
{
    pthread_rwlock_rdlock(&lock);
    enum space_state state = space_look(device, to, bytes, true, done);
    if (state == SPACE_GOOD)
        memcpy((void *)(uintptr_t)to, from, *done);
    pthread_rwlock_unlock(&lock);
    return state;
}
