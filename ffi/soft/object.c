/* SPDX-License-Identifier: Apache-2.0 */
#include "object.h"

#include <pthread.h>
#include <stdlib.h>

struct object {
    enum object_kind kind;
    void *object;
    const void *owner;
    struct object *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct object *objects;

CUresult object_add(enum object_kind kind, void *object, const void *owner)
{
    struct object *entry = malloc(sizeof(*entry));
    if (!entry)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&lock);
    *entry = (struct object){.kind = kind, .object = object, .owner = owner, .next = objects};
    objects = entry;
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

/* The first entry of that kind that is this object, or, where `object` is NULL, that has this owner. */
static struct object **object_find(enum object_kind kind, const void *object, const void *owner)
{
    struct object **at = &objects;
    while (*at && ((*at)->kind != kind || (object ? (*at)->object != object : (*at)->owner != owner)))
        at = &(*at)->next;
    return at;
}

bool object_exists(enum object_kind kind, const void *object)
{
    if (!object)
        return false;
    pthread_mutex_lock(&lock);
    bool found = *object_find(kind, object, NULL);
    pthread_mutex_unlock(&lock);
    return found;
}

static void *object_unlink(enum object_kind kind, const void *object, const void *owner)
{
    void *found = NULL;
    pthread_mutex_lock(&lock);
    struct object **at = object_find(kind, object, owner);
    struct object *entry = *at;
    if (entry) {
        *at = entry->next;
        found = entry->object;
    }
    pthread_mutex_unlock(&lock);
    free(entry);
    return found;
}

bool object_remove(enum object_kind kind, const void *object)
{
    return object && object_unlink(kind, object, NULL);
}

void *object_take(enum object_kind kind, const void *owner)
{
    return object_unlink(kind, NULL, owner);
}
