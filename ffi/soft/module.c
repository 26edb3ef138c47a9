/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE 1
#include "module.h"

#include <stdlib.h>
#include <string.h>

#include "context.h"
#include "kernels.h"
#include "object.h"
#include "ptx.h"
#include "stream.h"

#define BLOCK_THREADS_MAX 1024

struct CUmod_st {
    struct CUctx_st *context;
    char *ptx;
};

struct CUfunc_st {
    struct CUctx_st *context;
    const struct kernel *kernel;
};

struct launch_work {
    struct work work;
    const struct kernel *kernel;
    struct launch launch;
};

static void module_destroy(struct CUmod_st *module)
{
    struct CUfunc_st *function;
    while ((function = object_take(OBJECT_FUNCTION, module)))
        free(function);
    free(module->ptx);
    free(module);
}

void modules_destroy(struct CUctx_st *context)
{
    struct CUmod_st *module;
    while ((module = object_take(OBJECT_MODULE, context)))
        module_destroy(module);
}

/* PTX text only: an ELF or a fat binary holds machine code of a GPU. */
CUresult cuModuleLoadData(CUmodule *module, const void *image)
{
    struct CUctx_st *context;
    CUresult result = context_current(&context);
    if (result)
        return result;
    if (!module || !image)
        return CUDA_ERROR_INVALID_VALUE;
    if (!memcmp(image, "\x7f" "ELF", 4) || !memcmp(image, "\x50\xed\x55\xba", 4))
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    if (!ptx_check(image))
        return CUDA_ERROR_INVALID_PTX;
    struct CUmod_st *new = calloc(1, sizeof(*new));
    if (!new)
        return CUDA_ERROR_OUT_OF_MEMORY;
    new->context = context;
    new->ptx = strdup(image);
    result = new->ptx ? object_add(OBJECT_MODULE, new, context) : CUDA_ERROR_OUT_OF_MEMORY;
    if (result)
        module_destroy(new);
    else
        *module = new;
    return result;
}

CUresult cuModuleUnload(CUmodule module)
{
    struct CUctx_st *context;
    CUresult result = context_current(&context);
    if (result)
        return result;
    if (!object_remove(OBJECT_MODULE, module))
        return CUDA_ERROR_INVALID_HANDLE;
    module_destroy(module);
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
    CUresult result = driver_ready();
    if (result)
        return result;
    if (!function || !name)
        return CUDA_ERROR_INVALID_VALUE;
    if (!object_exists(OBJECT_MODULE, module))
        return CUDA_ERROR_INVALID_HANDLE;
    const struct kernel *kernel = ptx_declares(module->ptx, name) ? kernel_find(name) : NULL;
    if (!kernel)
        return CUDA_ERROR_NOT_FOUND;
    struct CUfunc_st *new = malloc(sizeof(*new));
    if (!new)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *new = (struct CUfunc_st){.context = module->context, .kernel = kernel};
    result = object_add(OBJECT_FUNCTION, new, module);
    if (result)
        free(new);
    else
        *function = new;
    return result;
}

static void launch_run(struct CUctx_st *context, struct work *work)
{
    const struct launch_work *launch = (const struct launch_work *)work;
    (void)context;
    launch->kernel->run(&launch->launch);
}

static void arguments_take(const char *parameters, void **from, union argument *to)
{
    for (; *parameters; parameters++, from++, to++)
        memcpy(to, *from, *parameters == 'Q' ? sizeof(uint64_t) : sizeof(uint32_t));
}

CUresult cuLaunchKernel(CUfunction function, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z,
                        unsigned int block_x, unsigned int block_y, unsigned int block_z, unsigned int shared_bytes,
                        CUstream stream, void **arguments, void **extra)
{
    struct CUctx_st *context;
    struct queue *queue;
    (void)shared_bytes;
    CUresult result = stream_queue(stream, &context, &queue);
    if (result)
        return result;
    if (!object_exists(OBJECT_FUNCTION, function) || function->context != context)
        return CUDA_ERROR_INVALID_HANDLE;
    if (!grid_x || !grid_y || !grid_z || !block_x || !block_y || !block_z ||
        (unsigned long long)block_x * block_y * block_z > BLOCK_THREADS_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    if (extra)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (!arguments && *function->kernel->parameters)
        return CUDA_ERROR_INVALID_VALUE;

    struct launch_work *work = malloc(sizeof(*work));
    if (!work)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *work = (struct launch_work){
        .work = {.run = launch_run},
        .kernel = function->kernel,
        .launch = {.context = context, .threads = (uint64_t)grid_x * block_x},
    };
    arguments_take(function->kernel->parameters, arguments, work->launch.arguments);
    return queue_put(queue, &work->work);
}
