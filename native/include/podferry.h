/* SPDX-License-Identifier: Apache-2.0 */
/* libpodferry: the parts of podferry that Python cannot do or cannot do fast enough. */
#pragma once

#include "podferry/activity.h"
#include "podferry/error.h"
#include "podferry/hold.h"
#include "podferry/images.h"
#include "podferry/probe.h"
#include "podferry/reroute.h"
#include "podferry/run.h"
#include "podferry/store.h"
#include "podferry/stream.h"
#include "podferry/target.h"
#include "podferry/track.h"
#include "podferry/tree.h"
