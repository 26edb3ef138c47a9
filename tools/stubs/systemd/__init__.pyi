# SPDX-License-Identifier: Apache-2.0
# The part of systemd-python 235 that mpsafe uses; the package itself carries no types.
