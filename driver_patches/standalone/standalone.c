/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
//
// The stand-alone module: the core and /dev/mpsafe without a driver behind them. /dev/mpsafe-client makes clients,
// their faults are injected, and a sink is a counted piece of memory, so that one that is forgotten is seen.
//
#include "mpsafe_client.h"
#include "mpsafe_dev.h"

#include <linux/atomic.h>
#include <linux/capability.h>
#include <linux/delay.h>
#include <linux/errno.h>
#include <linux/fs.h>
#include <linux/list.h>
#include <linux/math64.h>
#include <linux/minmax.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/rwsem.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>

#define FEATURES (MPSAFE_FEATURE_REPLAYABLE | MPSAFE_FEATURE_NON_REPLAYABLE | MPSAFE_FEATURE_REFUSE | \
                  MPSAFE_FEATURE_HOLD | MPSAFE_FEATURE_STANDALONE)

#define STORM_PER_SECOND_MAX 1000000
#define STORM_SECONDS_MAX 600
#define STORM_PAUSE_US 500

// A client's address space. Its sinks are under the client's own lock, which a fault and a drop both hold.
typedef struct
{
    struct list_head sinks;
} space_t;

typedef struct
{
    struct list_head node;
    __u8 gpu_uuid[16];
} backing_t;

// A fault holds it for reading, as the driver does with the lock of a VA space, the end of a space for writing.
static DECLARE_RWSEM(g_spaces);
static atomic_t g_backings = ATOMIC_INIT(0);

static backing_t *backing_create(space_t *space, const __u8 *gpu_uuid)
{
    backing_t *backing = kmalloc(sizeof(*backing), GFP_KERNEL | __GFP_NOWARN);

    if (!backing)
        return NULL;

    memcpy(backing->gpu_uuid, gpu_uuid, sizeof(backing->gpu_uuid));
    list_add(&backing->node, &space->sinks);
    atomic_inc(&g_backings);

    return backing;
}

static void backing_drop(void *context, void *dropped)
{
    backing_t *backing = dropped;

    list_del(&backing->node);
    kfree(backing);
    atomic_dec(&g_backings);
}

// What is free around the address: all of it far from any range, less within one.
static void sight_room(mpsafe_sight_t *sight)
{
    u64 size = sight->place == MPSAFE_PLACE_WILD ? MPSAFE_SINK_SIZE_STORM :
               sight->place == MPSAFE_PLACE_HOLE ? MPSAFE_SINK_SIZE_GROWN :
               sight->place == MPSAFE_PLACE_EXTERNAL ? MPSAFE_SINK_SIZE : 0;

    if (size && sight->va < -size) {
        sight->room_start = sight->va & -size;
        sight->room_end = sight->room_start + size;
    }
}

// As cancel_fault_precise_va would meet it. The caller holds g_spaces and has seen that the client's space is there.
static u32 space_fault(mpsafe_core_client_t *client, const struct mpsafe_inject *inject)
{
    mpsafe_core_t *core = mpsafe_dev_core();
    space_t *space = (space_t *)mpsafe_core_client_key(client);
    mpsafe_sight_t sight = {
        .va = inject->va,
        .access = inject->access,
        .fault = inject->fault,
        .place = inject->place,
        .unit = inject->unit,
    };
    mpsafe_sink_t sink = {0};
    backing_t *backing = NULL;
    u32 status;

    memcpy(sight.gpu_uuid, inject->gpu_uuid, sizeof(sight.gpu_uuid));
    sight_room(&sight);

    status = mpsafe_core_fault_begin(core, client, &sight, ktime_get_ns(), &sink);
    if (status == MPSAFE_STATUS_OK && !sink.made) {
        backing = backing_create(space, sight.gpu_uuid);
        if (!backing)
            status = MPSAFE_STATUS_NO_MEMORY;
    }
    mpsafe_core_fault_end(core, client, &sight, &sink, backing, status, ktime_get_ns());

    return status;
}

static int standalone_inject(void *context, mpsafe_core_client_t *client, struct mpsafe_inject *inject)
{
    mpsafe_core_client_t *found;
    int err = -ESRCH;

    down_read(&g_spaces);
    // Its space may have gone, and another one come at the same place.
    found = mpsafe_core_client_get(mpsafe_dev_core(), mpsafe_core_client_key(client));
    if (found == client) {
        inject->status = space_fault(client, inject);
        err = 0;
    }
    up_read(&g_spaces);

    if (found)
        mpsafe_core_client_put(found);

    return err;
}

static int client_open(struct inode *inode, struct file *file)
{
    space_t *space = kzalloc(sizeof(*space), GFP_KERNEL_ACCOUNT);
    int err;

    if (!space)
        return -ENOMEM;

    INIT_LIST_HEAD(&space->sinks);
    err = mpsafe_dev_client_create(space);
    if (err)
        kfree(space);
    else
        file->private_data = space;

    return err;
}

static void space_drop_sinks(space_t *space)
{
    mpsafe_core_t *core = mpsafe_dev_core();
    mpsafe_core_client_t *client = core ? mpsafe_core_client_get(core, space) : NULL;
    backing_t *backing;
    backing_t *before = NULL;
    __u8 gpu_uuid[16];

    if (!client)
        return;

    // One GPU at a time, as they are unregistered.
    while ((backing = list_first_entry_or_null(&space->sinks, backing_t, node)) && !WARN_ON(backing == before)) {
        memcpy(gpu_uuid, backing->gpu_uuid, sizeof(gpu_uuid));
        before = backing;
        mpsafe_core_sinks_drop(core, client, gpu_uuid, backing_drop, NULL);
    }

    mpsafe_core_client_put(client);
}

static int client_release(struct inode *inode, struct file *file)
{
    space_t *space = file->private_data;

    mpsafe_dev_client_hold(space);

    down_write(&g_spaces);
    space_drop_sinks(space);
    mpsafe_dev_client_destroy(space);
    up_write(&g_spaces);

    kfree(space);

    return 0;
}

// The core knows clients by number and by key; what leads from a key to its number is the list.
static long client_id(space_t *space, __u64 __user *argument)
{
    mpsafe_core_t *core = mpsafe_dev_core();
    struct mpsafe_client next = {0};
    const char *wrong = NULL;
    bool found = false;

    while (core && !found && mpsafe_core_request(core, MPSAFE_IOC_CLIENT_NEXT, &next, ktime_get_ns(), &wrong) == 0) {
        mpsafe_core_client_t *client = mpsafe_core_client_get_by_id(core, next.client);

        if (client) {
            found = mpsafe_core_client_key(client) == space;
            mpsafe_core_client_put(client);
        }
    }

    return found ? put_user(next.client, argument) : -ENOENT;
}

static long client_range(space_t *space)
{
    mpsafe_core_t *core = mpsafe_dev_core();
    mpsafe_core_client_t *client = core ? mpsafe_core_client_get(core, space) : NULL;
    bool refuses;

    if (!client)
        return 0;

    refuses = mpsafe_core_any_doomed(core) && mpsafe_core_refuses(core, client);
    mpsafe_core_client_put(client);

    return refuses ? -EPERM : 0;
}

static void storm(mpsafe_core_client_t *client, struct mpsafe_client_storm *storm)
{
    struct mpsafe_inject inject = {
        .access = MPSAFE_ACCESS_WRITE,
        .fault = MPSAFE_FAULT_PTE,
        .place = MPSAFE_PLACE_WILD,
        .unit = MPSAFE_UNIT_SM,
    };
    u64 total = (u64)storm->per_second * storm->seconds;
    u64 start_ns = ktime_get_ns();

    storm->made = 0;
    storm->absorbed = 0;
    for (;;) {
        u64 due = div_u64((ktime_get_ns() - start_ns) * storm->per_second, NSEC_PER_SEC);

        for (; storm->made < min(due, total) && !signal_pending(current); storm->made++) {
            inject.va = storm->va + storm->made * storm->stride;
            storm->absorbed += space_fault(client, &inject) == MPSAFE_STATUS_OK;
            cond_resched();
        }
        if (storm->made == total || signal_pending(current))
            break;

        usleep_range(STORM_PAUSE_US, 2 * STORM_PAUSE_US);
    }
    storm->took_ns = ktime_get_ns() - start_ns;
}

static long client_storm(space_t *space, struct mpsafe_client_storm __user *argument)
{
    mpsafe_core_t *core = mpsafe_dev_core();
    mpsafe_core_client_t *client;
    struct mpsafe_client_storm payload;

    if (!capable(CAP_SYS_ADMIN) || !mpsafe_dev_injects())
        return -EPERM;

    if (copy_from_user(&payload, argument, sizeof(payload)))
        return -EFAULT;

    if (payload.per_second == 0 || payload.per_second > STORM_PER_SECOND_MAX ||
        payload.seconds == 0 || payload.seconds > STORM_SECONDS_MAX)
        return -EINVAL;

    // Its space is there for as long as this file is open.
    client = core ? mpsafe_core_client_get(core, space) : NULL;
    if (!client)
        return -ENOENT;

    storm(client, &payload);
    mpsafe_core_client_put(client);

    return copy_to_user(argument, &payload, sizeof(payload)) ? -EFAULT : 0;
}

static long client_ioctl(struct file *file, unsigned int request, unsigned long argument)
{
    space_t *space = file->private_data;

    switch (request) {
        case MPSAFE_CLIENT_IOC_ID:
            return client_id(space, (__u64 __user *)argument);

        case MPSAFE_CLIENT_IOC_RANGE:
            return client_range(space);

        case MPSAFE_CLIENT_IOC_STORM:
            return client_storm(space, (struct mpsafe_client_storm __user *)argument);

        default:
            return -ENOTTY;
    }
}

static const struct file_operations g_client_operations = {
    .owner = THIS_MODULE,
    .open = client_open,
    .release = client_release,
    .unlocked_ioctl = client_ioctl,
    .compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice g_client_misc = {
    .minor = MISC_DYNAMIC_MINOR,
    .name = "mpsafe-client",
    .fops = &g_client_operations,
    .mode = 0666,
};

static int __init standalone_init(void)
{
    static const mpsafe_dev_config_t config = {
        .features = FEATURES,
        .driver = "none",
        .inject = standalone_inject,
    };
    int err = mpsafe_dev_init(&config);

    if (err)
        return err;

    err = misc_register(&g_client_misc);
    if (err)
        mpsafe_dev_exit();

    return err;
}

static void __exit standalone_exit(void)
{
    misc_deregister(&g_client_misc);
    mpsafe_dev_exit();
    WARN(atomic_read(&g_backings) != 0, "mpsafe: %d sinks were forgotten\n", atomic_read(&g_backings));
}

module_init(standalone_init);
module_exit(standalone_exit);

MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("mpsafe without a driver: /dev/mpsafe over make-believe clients, for tests");
MODULE_AUTHOR("The mpsafe authors");
