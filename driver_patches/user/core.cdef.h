/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What Python sees of the contract and the core. The compiler checks each struct and fills in each constant. */
#define MPSAFE_ABI ...
#define MPSAFE_HEARTBEAT_MS ...
#define MPSAFE_SINKS_MAX ...

#define MPSAFE_IOC_HELLO ...
#define MPSAFE_IOC_POLICY_SET ...
#define MPSAFE_IOC_POLICY_GET ...
#define MPSAFE_IOC_HEARTBEAT ...
#define MPSAFE_IOC_CLIENT_NEXT ...
#define MPSAFE_IOC_CLIENT_MODE ...
#define MPSAFE_IOC_STATS ...
#define MPSAFE_IOC_ANSWER ...
#define MPSAFE_IOC_INJECT ...

struct mpsafe_record {
    uint32_t size; uint16_t type; uint16_t mode; uint64_t load; uint64_t seq; uint64_t time_ns; uint64_t client;
    int32_t tgid; uint32_t uid; uint64_t start_ticks; uint64_t va; uint64_t sink_base; uint64_t sink_size;
    uint64_t faults; uint16_t access; uint16_t fault; uint32_t status; uint32_t latency_ns; uint16_t place;
    uint16_t unit; uint8_t gpu_uuid[16]; char comm[16]; uint16_t veid; uint16_t gpc; uint32_t reserved;
};
struct mpsafe_hello {
    uint32_t size; uint32_t abi; uint64_t load; uint64_t loaded_ns; uint32_t features; uint32_t ring;
    uint32_t record_size; uint32_t reserved; char driver[32];
};
struct mpsafe_policy {
    uint16_t mode; uint16_t in_force; uint32_t places; uint32_t units; uint32_t sinks_max; uint32_t budget_us;
    uint32_t grow_after[2]; uint32_t hold_ms; uint32_t kill_ms; uint32_t reserved[3];
};
struct mpsafe_client {
    uint64_t client; int32_t tgid; uint32_t uid; uint64_t start_ticks; uint64_t created_ns; uint64_t doomed_ns;
    uint64_t kill_ns; uint64_t faults; uint64_t sink_bytes; uint64_t spent_ns; uint32_t sinks; uint32_t refused;
    uint16_t state; uint16_t mode; uint32_t reserved; char comm[16];
};
struct mpsafe_client_mode { uint64_t client; uint16_t mode; uint16_t reserved[3]; };
struct mpsafe_stats {
    uint64_t absorbed; uint64_t passed; uint64_t orphans; uint64_t refused; uint64_t killed; uint64_t records;
    uint64_t lost; uint64_t expired; uint64_t latency_max_ns; uint32_t clients; uint32_t doomed; uint32_t sinks;
    uint32_t reserved;
};
struct mpsafe_answer { uint64_t client; uint32_t action; uint32_t ms; };
struct mpsafe_inject {
    uint64_t client; uint64_t va; uint16_t access; uint16_t fault; uint16_t unit; uint16_t place; uint32_t status;
    uint32_t reserved; uint8_t gpu_uuid[16];
};

typedef struct mpsafe_core_struct mpsafe_core_t;
typedef struct mpsafe_core_client_struct mpsafe_core_client_t;

typedef struct {
    void (*wake)(void *);
    void (*kill)(void *, void *);
    void (*put_process)(void *, void *);
    int (*inject)(void *, mpsafe_core_client_t *, struct mpsafe_inject *);
} mpsafe_core_ops_t;
typedef struct {
    uint64_t load; uint64_t loaded_ns; uint32_t features; uint32_t ring; const char *driver;
    const mpsafe_core_ops_t *ops; void *context;
} mpsafe_core_config_t;
typedef struct { int32_t tgid; uint32_t uid; uint64_t start_ticks; char comm[16]; } mpsafe_identity_t;
typedef struct {
    uint64_t va; uint64_t room_start; uint64_t room_end; uint16_t access; uint16_t fault; uint16_t place;
    uint16_t unit; uint16_t veid; uint16_t gpc; uint8_t gpu_uuid[16];
} mpsafe_sight_t;
typedef struct { uint64_t base; uint64_t size; bool made; } mpsafe_sink_t;

int mpsafe_core_init(mpsafe_core_t **, const mpsafe_core_config_t *);
void mpsafe_core_deinit(mpsafe_core_t *);
int mpsafe_core_client_create(mpsafe_core_t *, const void *, const mpsafe_identity_t *, void *, uint64_t);
mpsafe_core_client_t *mpsafe_core_client_get(mpsafe_core_t *, const void *);
mpsafe_core_client_t *mpsafe_core_client_get_by_id(mpsafe_core_t *, uint64_t);
const void *mpsafe_core_client_key(const mpsafe_core_client_t *);
void mpsafe_core_client_put(mpsafe_core_client_t *);
void mpsafe_core_client_destroy(mpsafe_core_t *, const void *, uint64_t);
bool mpsafe_core_any_doomed(const mpsafe_core_t *);
bool mpsafe_core_refuses(mpsafe_core_t *, mpsafe_core_client_t *);
uint32_t mpsafe_core_fault_begin(mpsafe_core_t *, mpsafe_core_client_t *, const mpsafe_sight_t *, uint64_t,
                                 mpsafe_sink_t *);
void mpsafe_core_fault_end(mpsafe_core_t *, mpsafe_core_client_t *, const mpsafe_sight_t *, const mpsafe_sink_t *,
                           void *, uint32_t, uint64_t);
void mpsafe_core_sinks_drop(mpsafe_core_t *, mpsafe_core_client_t *, const uint8_t *, void (*)(void *, void *),
                            void *);
void mpsafe_core_orphan(mpsafe_core_t *, const mpsafe_sight_t *, uint64_t);
uint64_t mpsafe_core_hold(mpsafe_core_t *, mpsafe_core_client_t *, uint64_t);
int mpsafe_core_open(mpsafe_core_t *, uint64_t);
void mpsafe_core_close(mpsafe_core_t *, uint64_t);
int mpsafe_core_request(mpsafe_core_t *, uint32_t, void *, uint64_t, const char **);
bool mpsafe_core_read(mpsafe_core_t *, struct mpsafe_record *);
bool mpsafe_core_readable(mpsafe_core_t *);
void mpsafe_core_rewind(mpsafe_core_t *);
uint64_t mpsafe_core_tick(mpsafe_core_t *, uint64_t);

void mpsafe_memory_fail_after(long);
long mpsafe_memory_live(void);

extern "Python" {
    void op_wake(void *);
    void op_kill(void *, void *);
    void op_put_process(void *, void *);
    int op_inject(void *, mpsafe_core_client_t *, struct mpsafe_inject *);
    void drop_backing(void *, void *);
}
