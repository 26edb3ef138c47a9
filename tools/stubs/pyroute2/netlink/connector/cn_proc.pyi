# SPDX-License-Identifier: Apache-2.0
from pyroute2.netlink import nlmsg

CN_IDX_PROC: int
CN_VAL_PROC: int
PROC_CN_MCAST_LISTEN: int
PROC_EVENT_NONE: int

class proc_event_control(nlmsg): ...
