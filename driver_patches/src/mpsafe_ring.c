/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#include "mpsafe_core_private.h"

int mpsafe_ring_init(mpsafe_ring_t *ring, __u32 records)
{
    if (records == 0 || records > MPSAFE_RING_MAX || (records & (records - 1)) != 0)
        return -EINVAL;

    ring->records = mpsafe_alloc(records * sizeof(*ring->records));
    if (!ring->records)
        return -ENOMEM;

    ring->mask = records - 1;
    mpsafe_spin_init(&ring->lock);
    return 0;
}

void mpsafe_ring_deinit(mpsafe_ring_t *ring)
{
    mpsafe_spin_deinit(&ring->lock);
    mpsafe_free(ring->records);
}

static __u64 oldest(const mpsafe_ring_t *ring)
{
    return ring->made > ring->mask ? ring->made - ring->mask : 1;
}

void mpsafe_ring_push(mpsafe_ring_t *ring, struct mpsafe_record *record)
{
    mpsafe_spin_lock(&ring->lock);
    if (ring->made > ring->mask && oldest(ring) > ring->seen)
        ring->lost++;

    record->seq = ++ring->made;
    ring->records[record->seq & ring->mask] = *record;
    mpsafe_spin_unlock(&ring->lock);
}

bool mpsafe_ring_read(mpsafe_ring_t *ring, struct mpsafe_record *record)
{
    bool there;

    mpsafe_spin_lock(&ring->lock);
    if (ring->next < oldest(ring))
        ring->next = oldest(ring);

    there = ring->next <= ring->made;
    if (there) {
        *record = ring->records[ring->next & ring->mask];
        if (ring->seen < ring->next)
            ring->seen = ring->next;
        ring->next++;
    }
    mpsafe_spin_unlock(&ring->lock);
    return there;
}

bool mpsafe_ring_readable(mpsafe_ring_t *ring)
{
    bool there;

    mpsafe_spin_lock(&ring->lock);
    there = ring->made > 0 && ring->next <= ring->made;
    mpsafe_spin_unlock(&ring->lock);
    return there;
}

void mpsafe_ring_rewind(mpsafe_ring_t *ring)
{
    mpsafe_spin_lock(&ring->lock);
    ring->next = 0;
    mpsafe_spin_unlock(&ring->lock);
}

void mpsafe_ring_count(mpsafe_ring_t *ring, __u64 *made, __u64 *lost)
{
    mpsafe_spin_lock(&ring->lock);
    *made = ring->made;
    *lost = ring->lost;
    mpsafe_spin_unlock(&ring->lock);
}
