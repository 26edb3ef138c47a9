/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SOFT_NVML_EVENT_H
#define SOFT_NVML_EVENT_H

/* Frees all event sets: what nvmlShutdown does to those that a program has left. */
void events_deinit(void);

#endif
