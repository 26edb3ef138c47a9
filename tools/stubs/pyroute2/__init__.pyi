# SPDX-License-Identifier: Apache-2.0
# The part of pyroute2 0.9 that mpsafe uses; the package itself carries no types.
