/* SPDX-License-Identifier: Apache-2.0 */
/* The likelihoods of core.cdef.h. Compiled with -ffast-math: no result here is an index. */

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core.cdef.h"
#include "fast.h"

enum { HALF_LIVES = 4, LATER = 9, SOONER = 8, FEATURES_MAX = 9, YOUNG = 64 };

static const float RATE = 0.4f;          /* of learning */
static const float START_SQUARE = 1e-2f; /* of AdaGrad */
static const float TINY = 1e-3f;
static const float PRIOR_USES = 4.0f;
static const float LOGIT_MAX = 15.0f; /* a likelihood of 1 has no logarithm of its odds */
static const float FADES[HALF_LIVES] = {0.5f, 0.84089642f, 0.95760328f, 0.98922801f}; /* half lives 1, 4, 16, 64 */

struct model {
    int features;
    float weights[FEATURES_MAX];
    float squares[FEATURES_MAX];
};

enum part {
    SOONER_MODELS,   /* [reach] */
    LATER_LIKELY,    /* [L][E] */
    LIKELY,          /* [L][E] */
    COUNTS,          /* [L][HALF_LIVES][E], fading */
    AGES,            /* [L][E], turns of the layer */
    USES,            /* [L][E] */
    FOLLOWS,         /* [L][E][E]: how often b was asked for a token after a, by the same layer */
    LEADS,           /* [reach][L][E][E]: by the layers behind, in the same token */
    LAST,            /* [L][E] int64_t: what each layer asked for last */
    NOW,             /* [E] int64_t: what the present layer asks for */
    LAST_COUNT,      /* [L] int, 0 before its first turn */
    LATER_FEATURES,  /* [L][LATER][E] */
    SOONER_FEATURES, /* [reach][L][SOONER][E] */
    LATER_WAITS,     /* [L] bool: features whose truth is not known yet */
    SOONER_WAITS,    /* [reach][L] bool */
    SCRATCH,         /* [E] */
    PARTS
};

struct estimator {
    int layers, experts, reach;
    float rate;
    struct model later_model;
    size_t offsets[PARTS];
};

#define FLOATS(estimator, part) ((float *)((char *)(estimator) + (estimator)->offsets[part]))
#define IDS(estimator, part) ((int64_t *)((char *)(estimator) + (estimator)->offsets[part]))
#define INTS(estimator, part) ((int *)((char *)(estimator) + (estimator)->offsets[part]))
#define FLAGS(estimator, part) ((bool *)((char *)(estimator) + (estimator)->offsets[part]))
#define MODELS(estimator) ((struct model *)((char *)(estimator) + (estimator)->offsets[SOONER_MODELS]))

static void model_start(struct model *model, int features)
{
    model->features = features;
    for (int at = 0; at < FEATURES_MAX; at++) {
        model->weights[at] = 0;
        model->squares[at] = START_SQUARE;
    }
}

/* features [F][experts] */
FAST static void model_ask(const struct model *model, const float *features, int experts, float *likely)
{
    for (int e = 0; e < experts; e++)
        likely[e] = 0;
    for (int f = 0; f < model->features; f++)
        for (int e = 0; e < experts; e++)
            likely[e] += model->weights[f] * features[f * experts + e];
    for (int e = 0; e < experts; e++) {
        float logit = likely[e];
        logit = logit > LOGIT_MAX ? LOGIT_MAX : logit < -LOGIT_MAX ? -LOGIT_MAX : logit;
        likely[e] = 1 / (1 + expf(-logit));
    }
}

/* The error is that of the weights as they are now, not as they were when the features were. */
FAST static void model_learn(struct model *model, const float *features, int experts, const int64_t *ids, int count,
                             float *error)
{
    model_ask(model, features, experts, error);
    for (int at = 0; at < count; at++)
        error[ids[at]] -= 1;
    for (int f = 0; f < model->features; f++) {
        float slope = 0;
        for (int e = 0; e < experts; e++)
            slope += error[e] * features[f * experts + e];
        model->squares[f] += slope * slope;
        model->weights[f] -= RATE * slope / sqrtf(model->squares[f]);
    }
}

/* Where each part begins, and the end of the last one. */
static size_t lay_out(int layers, int experts, int reach, size_t offsets[PARTS])
{
    const size_t each = (size_t)layers * experts, f = sizeof(float);
    const size_t sizes[PARTS] = {
        [SOONER_MODELS] = reach * sizeof(struct model),
        [LATER_LIKELY] = each * f,
        [LIKELY] = each * f,
        [COUNTS] = each * HALF_LIVES * f,
        [AGES] = each * f,
        [USES] = each * f,
        [FOLLOWS] = each * experts * f,
        [LEADS] = each * experts * reach * f,
        [LAST] = each * sizeof(int64_t),
        [NOW] = experts * sizeof(int64_t),
        [LAST_COUNT] = layers * sizeof(int),
        [LATER_FEATURES] = each * LATER * f,
        [SOONER_FEATURES] = each * SOONER * reach * f,
        [LATER_WAITS] = layers * sizeof(bool),
        [SOONER_WAITS] = (size_t)layers * reach * sizeof(bool),
        [SCRATCH] = experts * f,
    };
    size_t end = sizeof(struct estimator);
    for (int part = 0; part < PARTS; part++) {
        offsets[part] = end = (end + 63) / 64 * 64;
        end += sizes[part];
    }
    return end;
}

size_t estimator_bytes(int layers, int experts, int reach)
{
    size_t offsets[PARTS];
    return layers > 0 && experts > 0 && reach >= 0 ? lay_out(layers, experts, reach, offsets) : 0;
}

void estimator_start(struct estimator *estimator, int layers, int experts, int reach, float rate)
{
    const size_t each = (size_t)layers * experts;
    memset(estimator, 0, estimator_bytes(layers, experts, reach));
    estimator->layers = layers;
    estimator->experts = experts;
    estimator->reach = reach;
    estimator->rate = rate;
    lay_out(layers, experts, reach, estimator->offsets);
    model_start(&estimator->later_model, LATER);
    estimator->later_model.weights[0] = logf(rate / (1 - rate));
    for (int at = 0; at < reach; at++) {
        model_start(&MODELS(estimator)[at], SOONER);
        MODELS(estimator)[at].weights[1] = 1;
    }
    for (size_t at = 0; at < each; at++) {
        FLOATS(estimator, LATER_LIKELY)[at] = FLOATS(estimator, LIKELY)[at] = rate;
        FLOATS(estimator, AGES)[at] = YOUNG;
    }
}

float *estimator_likely(struct estimator *estimator)
{
    return FLOATS(estimator, LIKELY);
}

/* Adds up rows of pairs [E][E], and takes the logarithm of the share that each expert has of them. */
FAST static void pairs_share(const struct estimator *estimator, const float *pairs, const float *uses,
                             const int64_t *ids, int count, float *share)
{
    int experts = estimator->experts;
    float base = -count;
    for (int at = 0; at < count; at++)
        base += uses[ids[at]];
    for (int e = 0; e < experts; e++)
        share[e] = PRIOR_USES * estimator->rate;
    for (int at = 0; at < count; at++) {
        const float *row = pairs + ids[at] * experts;
        for (int e = 0; e < experts; e++)
            share[e] += row[e];
    }
    for (int e = 0; e < experts; e++)
        share[e] = logf(share[e] / (base + PRIOR_USES) + TINY) / 2 + 1;
}

/* [E][E]: what the layer `distance` behind `source` asked for, by what that asked for. */
static float *leads_of(const struct estimator *estimator, int distance, int source)
{
    size_t place = (size_t)(distance - 1) * estimator->layers + source;
    return FLOATS(estimator, LEADS) + place * estimator->experts * estimator->experts;
}

static void pairs_add(float *pairs, int experts, const int64_t *before, int before_count, const int64_t *ids, int count)
{
    for (int a = 0; a < before_count; a++)
        for (int b = 0; b < count; b++)
            pairs[before[a] * experts + ids[b]] += 1;
}

FAST static void count_layer(struct estimator *estimator, int layer, const int64_t *ids, int count)
{
    int experts = estimator->experts;
    size_t square = (size_t)experts * experts;
    float *counts = FLOATS(estimator, COUNTS) + (size_t)layer * HALF_LIVES * experts;
    float *ages = FLOATS(estimator, AGES) + (size_t)layer * experts;
    int64_t *last = IDS(estimator, LAST) + (size_t)layer * experts;

    pairs_add(FLOATS(estimator, FOLLOWS) + layer * square, experts, last, INTS(estimator, LAST_COUNT)[layer], ids,
              count);
    for (int distance = 1; distance <= estimator->reach && distance <= layer; distance++) {
        int source = layer - distance;
        pairs_add(leads_of(estimator, distance, source), experts, IDS(estimator, LAST) + (size_t)source * experts,
                  INTS(estimator, LAST_COUNT)[source], ids, count);
    }
    for (int half = 0; half < HALF_LIVES; half++) {
        for (int e = 0; e < experts; e++)
            counts[half * experts + e] *= FADES[half];
        for (int at = 0; at < count; at++)
            counts[half * experts + ids[at]] += 1;
    }
    for (int e = 0; e < experts; e++)
        ages[e] += 1;
    for (int at = 0; at < count; at++) {
        ages[ids[at]] = 0;
        FLOATS(estimator, USES)[(size_t)layer * experts + ids[at]] += 1;
        last[at] = ids[at];
    }
    INTS(estimator, LAST_COUNT)[layer] = count;
}

FAST static void describe_layer(struct estimator *estimator, int layer, const int64_t *ids, int count,
                                const float *probabilities)
{
    int experts = estimator->experts;
    const float *counts = FLOATS(estimator, COUNTS) + (size_t)layer * HALF_LIVES * experts;
    const float *ages = FLOATS(estimator, AGES) + (size_t)layer * experts;
    const float *uses = FLOATS(estimator, USES) + (size_t)layer * experts;
    float *features = FLOATS(estimator, LATER_FEATURES) + (size_t)layer * LATER * experts;

    for (int e = 0; e < experts; e++)
        features[e] = 1;
    for (int half = 0; half < HALF_LIVES; half++)
        for (int e = 0; e < experts; e++)
            features[(1 + half) * experts + e] = logf(1 + 8 * counts[half * experts + e] * (1 - FADES[half]));
    for (int e = 0; e < experts; e++) {
        features[5 * experts + e] = expf(-ages[e] / 2);
        features[6 * experts + e] = logf(1 + ages[e]) / 4;
    }
    pairs_share(estimator, FLOATS(estimator, FOLLOWS) + (size_t)layer * experts * experts, uses, ids, count,
                features + 7 * experts);
    if (probabilities)
        for (int e = 0; e < experts; e++)
            features[8 * experts + e] = logf(probabilities[e] + TINY) / 2 + 1;
    else
        for (int e = 0; e < experts; e++)
            features[8 * experts + e] = logf(counts[3 * experts + e] * (1 - FADES[3]) + 0.01f) / 2 + 1;
}

void estimator_routed(struct estimator *estimator, int layer, const int64_t *flat, int count,
                      const float *probabilities)
{
    int experts = estimator->experts;
    int64_t *ids = IDS(estimator, NOW);
    float *features = FLOATS(estimator, LATER_FEATURES) + (size_t)layer * LATER * experts;
    float *later = FLOATS(estimator, LATER_LIKELY) + (size_t)layer * experts;

    for (int at = 0; at < count; at++)
        ids[at] = flat[at] - (int64_t)layer * experts;
    if (FLAGS(estimator, LATER_WAITS)[layer])
        model_learn(&estimator->later_model, features, experts, ids, count, FLOATS(estimator, SCRATCH));
    for (int at = 0; at < estimator->reach; at++) {
        size_t place = (size_t)at * estimator->layers + layer;
        if (FLAGS(estimator, SOONER_WAITS)[place])
            model_learn(&MODELS(estimator)[at], FLOATS(estimator, SOONER_FEATURES) + place * SOONER * experts, experts,
                        ids, count, FLOATS(estimator, SCRATCH));
        FLAGS(estimator, SOONER_WAITS)[place] = false;
    }
    count_layer(estimator, layer, ids, count);
    describe_layer(estimator, layer, ids, count, probabilities);
    FLAGS(estimator, LATER_WAITS)[layer] = true;
    model_ask(&estimator->later_model, features, experts, later);
    memcpy(FLOATS(estimator, LIKELY) + (size_t)layer * experts, later, experts * sizeof *later);
}

/* 1 for the `count` highest of `values`, 0 for the others; scratch [E]. */
static void mark_highest(const float *values, int experts, int count, float *scratch, float *marks)
{
    memset(marks, 0, experts * sizeof *marks);
    memcpy(scratch, values, experts * sizeof *scratch);
    for (int at = 0; at < count; at++) {
        int best = 0;
        for (int e = 1; e < experts; e++)
            if (scratch[e] > scratch[best])
                best = e;
        scratch[best] = -1;
        marks[best] = 1;
    }
}

FAST static void describe_ahead(struct estimator *estimator, int layer, int distance, const float *ahead,
                                const float *maps, const float *regressed, float *features)
{
    int experts = estimator->experts, source = layer - distance;
    const float *later = FLOATS(estimator, LATER_LIKELY) + (size_t)layer * experts;

    memset(features, 0, (size_t)SOONER * experts * sizeof *features);
    for (int e = 0; e < experts; e++) {
        features[e] = 1;
        features[experts + e] = logf(later[e] / (1 - later[e]));
    }
    if (source >= 0 && INTS(estimator, LAST_COUNT)[source])
        pairs_share(estimator, leads_of(estimator, distance, source),
                    FLOATS(estimator, USES) + (size_t)source * experts, IDS(estimator, LAST) + (size_t)source * experts,
                    INTS(estimator, LAST_COUNT)[source], features + 2 * experts);
    if (ahead) {
        for (int e = 0; e < experts; e++)
            features[3 * experts + e] = logf(ahead[e] + TINY) / 2 + 1;
        mark_highest(ahead, experts, (int)(estimator->rate * experts + 0.5f), FLOATS(estimator, SCRATCH),
                     features + 4 * experts);
    }
    if (maps)
        for (int e = 0; e < experts; e++)
            features[5 * experts + e] = logf(maps[e] + TINY) / 2 + 1;
    if (regressed)
        for (int e = 0; e < experts; e++) {
            features[6 * experts + e] = logf(regressed[e] + TINY * TINY) / 2 + 1;
            features[7 * experts + e] = regressed[e];
        }
}

void estimator_ahead(struct estimator *estimator, int now, const float *ahead, int depth, const float *maps,
                     const float *regressed)
{
    int experts = estimator->experts;
    for (int distance = 1; distance <= estimator->reach && now + distance < estimator->layers; distance++) {
        int layer = now + distance, row = (distance - 1) * experts;
        size_t place = (size_t)(distance - 1) * estimator->layers + layer;
        float *features = FLOATS(estimator, SOONER_FEATURES) + place * SOONER * experts;
        describe_ahead(estimator, layer, distance, ahead && distance <= depth ? ahead + row : NULL,
                       maps ? maps + row : NULL, regressed ? regressed + row : NULL, features);
        FLAGS(estimator, SOONER_WAITS)[place] = true;
        model_ask(&MODELS(estimator)[distance - 1], features, experts,
                  FLOATS(estimator, LIKELY) + (size_t)layer * experts);
    }
}

int estimator_wishes(const struct estimator *estimator, int now, float least, int64_t *flat, double *likely)
{
    int experts = estimator->experts, count = 0;
    for (int distance = 1; distance <= estimator->reach && now + distance < estimator->layers; distance++) {
        int64_t first = (int64_t)(now + distance) * experts;
        for (int e = 0; e < experts; e++) {
            double chance = FLOATS(estimator, LIKELY)[first + e], urgency = chance / distance;
            int at;
            if (!(chance > least))
                continue;
            for (at = count; at > 0; at--) {
                double above = likely[at - 1] / (double)(flat[at - 1] / experts - now);
                if (above >= urgency)
                    break;
                flat[at] = flat[at - 1];
                likely[at] = likely[at - 1];
            }
            flat[at] = first + e;
            likely[at] = chance;
            count++;
        }
    }
    return count;
}

int estimator_leaving(const struct estimator *estimator, int now, float rent, const uint8_t *may_leave, int count,
                      int64_t *flat)
{
    int experts = estimator->experts, layers = estimator->layers, found = 0;
    float highest = 0;
    for (int layer = 0; layer < layers && count > 0; layer++) {
        float due = rent * ((layer - now - 1 + layers) % layers);
        for (int e = 0; e < experts; e++) {
            int64_t one = (int64_t)layer * experts + e;
            float worth = FLOATS(estimator, LIKELY)[one] - due;
            int at;
            if (!may_leave[one] || (found == count && !(worth < highest)))
                continue;
            if (found < count)
                found++;
            for (at = found - 1; at > 0; at--) {
                int64_t other = flat[at - 1];
                float above = FLOATS(estimator, LIKELY)[other] - rent * ((other / experts - now - 1 + layers) % layers);
                if (!(worth < above))
                    break;
                flat[at] = other;
            }
            flat[at] = one;
            one = flat[found - 1];
            highest = FLOATS(estimator, LIKELY)[one] - rent * ((one / experts - now - 1 + layers) % layers);
        }
    }
    return found;
}
