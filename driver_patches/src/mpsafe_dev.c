/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#include "mpsafe_dev.h"
#include "mpsafe_file.h"

#include <linux/cred.h>
#include <linux/log2.h>
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/param.h>
#include <linux/pid.h>
#include <linux/random.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/timekeeping.h>
#include <linux/uidgid.h>
#include <linux/user_namespace.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#define MPSAFE_RING_MIN 64
#define MPSAFE_RING_MAX (1u << 20)

static bool mpsafe_enable = true;
module_param(mpsafe_enable, bool, 0444);
MODULE_PARM_DESC(mpsafe_enable, "Have /dev/mpsafe (default 1). 0: no device, and faults meet stock behaviour.");

static bool mpsafe_inject;
module_param(mpsafe_inject, bool, 0400);
MODULE_PARM_DESC(mpsafe_inject, "Let the owner of /dev/mpsafe inject faults, for tests (default 0).");

static uint mpsafe_ring = 16384;
module_param(mpsafe_ring, uint, 0444);
MODULE_PARM_DESC(mpsafe_ring, "Records that /dev/mpsafe keeps: a power of two, 64 to 1048576 (default 16384).");

static uint mpsafe_features;
module_param(mpsafe_features, uint, 0444);
MODULE_PARM_DESC(mpsafe_features, "Read only: what this module can do, as a mask of MPSAFE_FEATURE_....");

static struct
{
    mpsafe_core_t *core;
    mpsafe_core_ops_t ops;
    struct workqueue_struct *queue;
    struct delayed_work ticker;

    // Who waits for a doomed client to be released.
    wait_queue_head_t holders;
} g_dev = {
    .holders = __WAIT_QUEUE_HEAD_INITIALIZER(g_dev.holders),
};

// What the hooks see of the core: set last and cleared first.
static mpsafe_core_t *g_core;

mpsafe_core_t *mpsafe_dev_core(void)
{
    return smp_load_acquire(&g_core);
}

bool mpsafe_dev_injects(void)
{
    return mpsafe_inject;
}

static void dev_tick(struct work_struct *work)
{
    u64 now = ktime_get_ns();
    u64 next = mpsafe_core_tick(g_dev.core, now);

    // A wake in the meantime has queued it already, and sooner.
    if (next)
        queue_delayed_work(g_dev.queue, &g_dev.ticker, nsecs_to_jiffies(next > now ? next - now : 0) + 1);
}

static void op_wake(void *context)
{
    mpsafe_file_wake();
    wake_up_all(&g_dev.holders);
    mod_delayed_work(g_dev.queue, &g_dev.ticker, 0);
}

// From the ticker or from a request of the owner's: never from a fault, and with no lock held.
static void op_kill(void *context, void *process)
{
    kill_pid(process, SIGKILL, 1);
}

static void op_put_process(void *context, void *process)
{
    put_pid(process);
}

// Field 22 of /proc/PID/stat as the initial time namespace shows it: the offset of another one is the reader's.
static void identify_current(mpsafe_identity_t *who)
{
    struct task_struct *leader = current->group_leader;

    memset(who, 0, sizeof(*who));
    who->tgid = task_tgid_nr(current);
    who->uid = from_kuid(&init_user_ns, current_euid());
    who->start_ticks = div_u64(leader->start_boottime, NSEC_PER_SEC / USER_HZ);
    get_task_comm(who->comm, leader);
}

int mpsafe_dev_client_create(const void *key)
{
    mpsafe_core_t *core = mpsafe_dev_core();
    mpsafe_identity_t who;

    if (!core)
        return 0;

    identify_current(&who);

    return mpsafe_core_client_create(core, key, &who, get_pid(task_tgid(current)), ktime_get_ns());
}

void mpsafe_dev_client_hold(const void *key)
{
    mpsafe_core_t *core = mpsafe_dev_core();
    mpsafe_core_client_t *client = core ? mpsafe_core_client_get(core, key) : NULL;
    u64 left;

    if (!client)
        return;

    // Idle: as long as this can take is neither load nor a hang.
    while ((left = mpsafe_core_hold(core, client, ktime_get_ns())) != 0) {
        wait_event_idle_timeout(g_dev.holders,
                                mpsafe_core_hold(core, client, ktime_get_ns()) == 0,
                                nsecs_to_jiffies(left) + 1);
    }

    mpsafe_core_client_put(client);
}

void mpsafe_dev_client_destroy(const void *key)
{
    mpsafe_core_t *core = mpsafe_dev_core();

    if (core)
        mpsafe_core_client_destroy(core, key, ktime_get_ns());
}

int mpsafe_dev_init(const mpsafe_dev_config_t *config)
{
    mpsafe_core_config_t core = {
        .loaded_ns = ktime_get_boottime_ns(),
        .driver = config->driver,
        .ops = &g_dev.ops,
    };
    int err = -ENOMEM;

    mpsafe_features = config->features | (mpsafe_inject ? MPSAFE_FEATURE_INJECT : 0);
    if (!mpsafe_enable) {
        pr_info("mpsafe: off, since mpsafe_enable=0: faults meet stock behaviour\n");
        return 0;
    }

    if (!is_power_of_2(mpsafe_ring) || mpsafe_ring < MPSAFE_RING_MIN || mpsafe_ring > MPSAFE_RING_MAX) {
        pr_err("mpsafe: mpsafe_ring=%u is not a power of two from %u to %u: no /dev/mpsafe\n",
               mpsafe_ring, MPSAFE_RING_MIN, MPSAFE_RING_MAX);
        return -EINVAL;
    }

    g_dev.ops = (mpsafe_core_ops_t) {
        .wake = op_wake,
        .kill = op_kill,
        .put_process = op_put_process,
        .inject = mpsafe_inject ? config->inject : NULL,
    };
    core.load = get_random_u64();
    core.features = mpsafe_features;
    core.ring = mpsafe_ring;

    INIT_DELAYED_WORK(&g_dev.ticker, dev_tick);
    g_dev.queue = alloc_workqueue("mpsafe", WQ_UNBOUND | WQ_MEM_RECLAIM, 1);
    if (!g_dev.queue)
        goto failed;

    err = mpsafe_core_init(&g_dev.core, &core);
    if (err)
        goto failed_core;

    err = mpsafe_file_init(g_dev.core);
    if (err)
        goto failed_file;

    smp_store_release(&g_core, g_dev.core);
    pr_info("mpsafe: /dev/mpsafe, abi %u, driver %s, features 0x%x\n", MPSAFE_ABI, config->driver, mpsafe_features);

    return 0;

failed_file:
    mpsafe_core_deinit(g_dev.core);
failed_core:
    destroy_workqueue(g_dev.queue);
failed:
    pr_err("mpsafe: no /dev/mpsafe: errno %d\n", -err);

    return err;
}

void mpsafe_dev_exit(void)
{
    if (!mpsafe_dev_core())
        return;

    smp_store_release(&g_core, NULL);
    mpsafe_file_exit();
    cancel_delayed_work_sync(&g_dev.ticker);
    mpsafe_core_deinit(g_dev.core);
    destroy_workqueue(g_dev.queue);
}
