/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a process talks to the software kernel: the one process that stands for nvidia.ko,
 * nvidia-uvm.ko and the silicon below them (daemon/mpsafe/soft/kernel.py).
 *
 * MPSAFE_SOFT_DIR names a directory; without it there is no device (cuInit: 100).
 *
 *   rm      SOCK_SEQPACKET socket; speaks the language below
 *   kmsg    the kernel log, one /dev/kmsg record a line: "3,<seq>,<usec>,-;<text>"
 *   mpsafe  SOCK_SEQPACKET socket that stands for /dev/mpsafe (ffi/mpsafe_uapi.h)
 *
 * One request and one reply a packet: ASCII words separated by one space, no newline at the
 * end, at most SOFT_PACKET_MAX bytes. A key=value word never holds a space. A reply starts with
 * "ok", or is "error <CUresult>". Identity is SO_PEERCRED; nothing that a process says about
 * itself is believed. A connection is a process's life on the device: closing it frees everything.
 *
 *   hello <role>                role: cuda | nvml | mps. Reply "ok devices=<n> driver=<version>
 *                               cuda=<number>" and, for cuda and mps, one SCM_RIGHTS fd: the
 *                               notifier page (struct soft_notifier, 4096 bytes, shared).
 *   device <i>                  "ok uuid=GPU-<8-4-4-4-12 hex> pci=0000:01:00.0 total=<bytes>
 *                               used=<bytes> sms=<n> name=<text; _ stands for a space>"
 *   open <i> <group>            a context on device i. group: 0, or the id that the MPS server
 *                               gave. "ok <channel> <group>"; error 101 (no such device), 807
 *                               (the group has faulted), 1 (no such group).
 *   close <channel>             "ok"
 *   alloc <i> <id> <bytes>      hold allocation id (the inode of its memfd) for this process; the
 *                               device is charged once however many hold it. "ok" | "error 2".
 *   free <i> <id>               "ok"
 *   fault <channel> <class> <detail> va=0x<hex> access=<read|write|atomic|none>
 *                               A warp of this channel faulted. class mmu: detail pde (nothing
 *                               there), pte (reserved, not mapped), ro (write to read-only).
 *                               class sm: detail illegal_instruction, misaligned, trap.
 *                               "ok absorbed": go on, the access reads zero or is lost;
 *                               "ok fatal <CUresult>": the channel is dead, the notifier says it.
 *   processes <i>               "ok <n>", then n words <pid>:<bytes>:<group>:<mps 0|1>
 *   watch                       the reply "ok", and from then on this connection only receives:
 *                               "xid <i> <number>"; with role mps also "dead <group> <i> <pid> <class>
 *                               <devices> <pids>" (numbers between commas) and "gone <group> <pid>".
 *   group                       (role mps) a new channel group on all devices: "ok <group>"
 *   recreate <group>            (role mps) the group is made anew where it died: "ok"; error 807 while a
 *                               client has a channel there
 *   terminate <group> <pid>     (role mps) end one client of the group: its notifier says 810 and
 *                               its channels are gone when "ok" is sent; "error 201" if it has none.
 *
 * A fatal fault reaches all devices of the clients on the faulting device, then all clients on those:
 * each finds the CUresult in its notifier. When the connection that made a group closes, its clients
 * find 806.
 */
#ifndef SOFT_WIRE_H
#define SOFT_WIRE_H

#include <stdatomic.h>
#include <stdint.h>

#define SOFT_PACKET_MAX 4096
#define SOFT_NOTIFIER_BYTES 4096

/* Written by the software kernel, read by the process: RM's error notifier, in spirit. */
struct soft_notifier {
    _Atomic uint32_t error;   /* a CUresult, sticky; 0 while the process's channels are healthy */
    _Atomic uint32_t doomed;  /* 1 once a fault of this process was absorbed */
};

/*
 * The client's side of MPS, as far as it is ours: the wire between a real libcuda, the control
 * daemon and the server is private to NVIDIA, so the software one is plain text over
 * SOCK_SEQPACKET on the same socket, $CUDA_MPS_PIPE_DIRECTORY/control (default /tmp/nvidia-mps).
 *
 *   the control daemon sends  OUTBHELL\0                    (as the real one does)
 *   the client sends          OUTBCRED\0, u32 1, u64 0      (a front end sends kind 4)
 *   the control daemon sends  "server <path of the server's socket>"  or  "error <CUresult>"
 *   the client connects there; the server sends  "ok <group> <server pid>"  or  "error <CUresult>"
 *
 * A client that is put on the pending list waits for that first reply. The connection to the
 * server stays open for the life of the process and is served by a thread of the library: on
 * "terminate" it writes 810 into its own sticky error, answers "terminated", and goes on reading.
 * A stopped process cannot answer: that is why a fence thaws a client before it terminates it. EOF
 * means that the server is gone. No control socket, or nobody listening on it: no MPS, no error.
 */
#define SOFT_MPS_KIND_CLIENT 1u
#define SOFT_MPS_KIND_FRONT_END 4u

#endif
