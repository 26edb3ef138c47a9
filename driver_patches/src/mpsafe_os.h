/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
//
// What the core wants of the system below it, with three faces: within nvidia-uvm (MPSAFE_IN_UVM), within any other
// module, and in user space. An mpsafe_mutex_t may be held while its holder sleeps, an mpsafe_spin_t may not.
//
#ifndef __MPSAFE_OS_H__
#define __MPSAFE_OS_H__

#ifdef __KERNEL__

#include <linux/bug.h>
#include <linux/compiler.h>
#include <linux/errno.h>
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/types.h>

#ifdef MPSAFE_IN_UVM

#include "uvm_lock.h"

// A client's lock is taken with the VA space's and maybe an external range tree's lock held, and held over page tree
// work and pushes. The slot right after the range tree's has that place in all versions. The lock that NVIDIA has in
// this slot is never held together with ours; an order of our own would change the enum and the tables beside it.
#define UVM_LOCK_ORDER_MPSAFE_CLIENT UVM_LOCK_ORDER_GPU_SEMAPHORE_POOL

typedef uvm_mutex_t mpsafe_mutex_t;

#define mpsafe_mutex_init(mutex) uvm_mutex_init(mutex, UVM_LOCK_ORDER_MPSAFE_CLIENT)
#define mpsafe_mutex_deinit(mutex) ((void)(mutex))
#define mpsafe_mutex_lock(mutex) uvm_mutex_lock(mutex)
#define mpsafe_mutex_unlock(mutex) uvm_mutex_unlock(mutex)

#else

typedef struct mutex mpsafe_mutex_t;

#define mpsafe_mutex_init(mutex) mutex_init(mutex)
#define mpsafe_mutex_deinit(mutex) mutex_destroy(mutex)
#define mpsafe_mutex_lock(mutex) mutex_lock(mutex)
#define mpsafe_mutex_unlock(mutex) mutex_unlock(mutex)

#endif // MPSAFE_IN_UVM

typedef spinlock_t mpsafe_spin_t;

#define mpsafe_spin_init(spin) spin_lock_init(spin)
#define mpsafe_spin_deinit(spin) ((void)(spin))
#define mpsafe_spin_lock(spin) spin_lock(spin)
#define mpsafe_spin_unlock(spin) spin_unlock(spin)

#define mpsafe_warn_on(condition) WARN_ON_ONCE(condition)

// Zeroed; NULL where there is no memory. Whoever opens the driver pays for its client.
static inline void *mpsafe_alloc(size_t size)
{
    return kvzalloc(size, GFP_KERNEL_ACCOUNT | __GFP_NORETRY | __GFP_NOWARN);
}

static inline void mpsafe_free(void *memory)
{
    kvfree(memory);
}

static inline __u32 mpsafe_load(const __u32 *word)
{
    return READ_ONCE(*word);
}

static inline void mpsafe_store(__u32 *word, __u32 value)
{
    WRITE_ONCE(*word, value);
}

#else

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <linux/types.h>

typedef pthread_mutex_t mpsafe_mutex_t;

#define mpsafe_mutex_init(mutex) ((void)pthread_mutex_init(mutex, NULL))
#define mpsafe_mutex_deinit(mutex) ((void)pthread_mutex_destroy(mutex))
#define mpsafe_mutex_lock(mutex) ((void)pthread_mutex_lock(mutex))
#define mpsafe_mutex_unlock(mutex) ((void)pthread_mutex_unlock(mutex))

// Not one that spins: a test's threads outnumber the processors.
typedef pthread_mutex_t mpsafe_spin_t;

#define mpsafe_spin_init(spin) mpsafe_mutex_init(spin)
#define mpsafe_spin_deinit(spin) mpsafe_mutex_deinit(spin)
#define mpsafe_spin_lock(spin) mpsafe_mutex_lock(spin)
#define mpsafe_spin_unlock(spin) mpsafe_mutex_unlock(spin)

#define mpsafe_warn_on(condition) assert(!(condition))

// In user/memory.c, which can be told to fail.
void *mpsafe_alloc(size_t size);
void mpsafe_free(void *memory);

static inline __u32 mpsafe_load(const __u32 *word)
{
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static inline void mpsafe_store(__u32 *word, __u32 value)
{
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

#endif // __KERNEL__

#endif // __MPSAFE_OS_H__
