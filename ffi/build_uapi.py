# SPDX-License-Identifier: Apache-2.0
"""Builds mpsafed.driver._uapi from ffi/mpsafe_uapi.h: the compiler fills in each offset and constant."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent

CONSTANTS = """
    ABI HEARTBEAT_MS SINKS_MAX
    MODE_OFF MODE_OBSERVE MODE_ABSORB MODE_INHERIT
    RECORD_POLICY RECORD_ABSORBED RECORD_PASSED RECORD_GONE RECORD_ORPHAN RECORD_KILLED
    ACCESS_NONE ACCESS_READ ACCESS_WRITE ACCESS_ATOMIC
    FAULT_PDE FAULT_PTE FAULT_RO FAULT_OTHER
    PLACE_UNKNOWN PLACE_WILD PLACE_HOLE PLACE_EXTERNAL PLACE_MANAGED PLACE_CHANNEL
    UNIT_UNKNOWN UNIT_SM UNIT_COPY
    STATUS_OK STATUS_NOT_SUPPORTED STATUS_NO_MEMORY STATUS_LIMIT STATUS_STATE
    FEATURE_REPLAYABLE FEATURE_NON_REPLAYABLE FEATURE_ORPHAN FEATURE_REFUSE FEATURE_HOLD FEATURE_INJECT
    FEATURE_STANDALONE
    CLIENT_LIVE CLIENT_DOOMED CLIENT_RELEASED
    ANSWER_RELEASE ANSWER_EXTEND ANSWER_KILL
    IOC_HELLO IOC_POLICY_SET IOC_POLICY_GET IOC_HEARTBEAT IOC_CLIENT_NEXT IOC_CLIENT_MODE IOC_STATS IOC_ANSWER
    IOC_INJECT
"""

STRUCTS = """
    struct mpsafe_record {
        uint32_t size; uint16_t type; uint16_t mode; uint64_t load; uint64_t seq; uint64_t time_ns;
        uint64_t client; int32_t tgid; uint32_t uid; uint64_t start_ticks; uint64_t va;
        uint64_t sink_base; uint64_t sink_size; uint64_t faults; uint16_t access; uint16_t fault;
        uint32_t status; uint32_t latency_ns; uint16_t place; uint16_t unit; uint8_t gpu_uuid[16]; char comm[16];
        uint16_t veid; uint16_t gpc;
        ...;
    };
    struct mpsafe_hello {
        uint32_t size; uint32_t abi; uint64_t load; uint64_t loaded_ns; uint32_t features; uint32_t ring;
        uint32_t record_size; uint32_t reserved; char driver[32];
        ...;
    };
    struct mpsafe_policy {
        uint16_t mode; uint16_t in_force; uint32_t places; uint32_t units; uint32_t sinks_max; uint32_t budget_us;
        uint32_t grow_after[2]; uint32_t hold_ms; uint32_t kill_ms; uint32_t reserved[3];
        ...;
    };
    struct mpsafe_client {
        uint64_t client; int32_t tgid; uint32_t uid; uint64_t start_ticks; uint64_t created_ns; uint64_t doomed_ns;
        uint64_t kill_ns; uint64_t faults; uint64_t sink_bytes; uint64_t spent_ns; uint32_t sinks; uint32_t refused;
        uint16_t state; uint16_t mode; uint32_t reserved; char comm[16];
        ...;
    };
    struct mpsafe_client_mode { uint64_t client; uint16_t mode; uint16_t reserved[3]; ...; };
    struct mpsafe_stats {
        uint64_t absorbed; uint64_t passed; uint64_t orphans; uint64_t refused; uint64_t killed; uint64_t records;
        uint64_t lost; uint64_t expired; uint64_t latency_max_ns; uint32_t clients; uint32_t doomed; uint32_t sinks;
        uint32_t reserved;
        ...;
    };
    struct mpsafe_answer { uint64_t client; uint32_t action; uint32_t ms; ...; };
    struct mpsafe_inject {
        uint64_t client; uint64_t va; uint16_t access; uint16_t fault; uint16_t unit; uint16_t place; uint32_t status;
        uint32_t reserved; uint8_t gpu_uuid[16];
        ...;
    };
"""

ffibuilder = FFI()
ffibuilder.cdef(STRUCTS + "".join(f"#define MPSAFE_{name} ...\n" for name in CONSTANTS.split()))
ffibuilder.set_source("mpsafed.driver._uapi", '#include "mpsafe_uapi.h"', include_dirs=[str(HERE)])

if __name__ == "__main__":
    ffibuilder.compile(tmpdir=str(HERE.parent / "daemon"))
