/* A driver library for machines without a GPU: what it exports is declared by NVIDIA's cuda.h, so a compiler checks every
 * signature, and the real cuda-bindings and pycuda call it. A call is packed into words and answered by the simulated GPU
 * (calls.py); before `bsst_simulate`, and for every call that is not here, the answer is an error code.
 */
#include <cuda.h>
#include <stdint.h>
#include <string.h>

typedef int (*answer_t)(const char *call, const unsigned long long *words);
static answer_t answer;

void bsst_simulate(answer_t simulated) { answer = simulated; }

#define WORD(x) ((unsigned long long)(uintptr_t)(x))
#define CALL(name, parameters, ...)                                                                                    \
    CUresult CUDAAPI name parameters {                                                                                 \
        const unsigned long long words[] = {__VA_ARGS__};                                                              \
        return answer ? (CUresult)answer(#name, words) : CUDA_ERROR_NO_DEVICE;                                         \
    }

CALL(cuInit, (unsigned int flags), flags)
CALL(cuDriverGetVersion, (int *version), WORD(version))
CALL(cuDeviceGetCount, (int *count), WORD(count))
CALL(cuDeviceGet, (CUdevice *device, int ordinal), WORD(device), ordinal)
CALL(cuDeviceGetName, (char *name, int length, CUdevice device), WORD(name), length, device)
CALL(cuDeviceGetAttribute, (int *value, CUdevice_attribute attribute, CUdevice device), WORD(value), attribute, device)
CALL(cuDeviceComputeCapability, (int *major, int *minor, CUdevice device), WORD(major), WORD(minor), device)
CALL(cuDeviceTotalMem, (size_t *bytes, CUdevice device), WORD(bytes), device)
CALL(cuDevicePrimaryCtxRetain, (CUcontext *context, CUdevice device), WORD(context), device)
CALL(cuDevicePrimaryCtxRelease, (CUdevice device), device)
CALL(cuCtxPushCurrent, (CUcontext context), WORD(context))
CALL(cuCtxPopCurrent, (CUcontext *context), WORD(context))
CALL(cuCtxGetDevice, (CUdevice *device), WORD(device))
CALL(cuGetErrorName, (CUresult error, const char **text), error, WORD(text))
CALL(cuGetErrorString, (CUresult error, const char **text), error, WORD(text))
CALL(cuMemGetInfo, (size_t *free, size_t *total), WORD(free), WORD(total))
CALL(cuMemAlloc, (CUdeviceptr *address, size_t bytes), WORD(address), bytes)
CALL(cuMemFree, (CUdeviceptr address), address)
CALL(cuMemHostAlloc, (void **address, size_t bytes, unsigned int flags), WORD(address), bytes, flags)
CALL(cuMemFreeHost, (void *address), WORD(address))
CALL(cuMemcpyHtoDAsync, (CUdeviceptr to, const void *from, size_t bytes, CUstream stream), to, WORD(from), bytes,
     WORD(stream))
CALL(cuMemcpyDtoHAsync, (void *to, CUdeviceptr from, size_t bytes, CUstream stream), WORD(to), from, bytes,
     WORD(stream))
CALL(cuStreamCreate, (CUstream *stream, unsigned int flags), WORD(stream), flags)
CALL(cuStreamDestroy, (CUstream stream), WORD(stream))
CALL(cuStreamSynchronize, (CUstream stream), WORD(stream))
CALL(cuStreamWaitEvent, (CUstream stream, CUevent event, unsigned int flags), WORD(stream), WORD(event), flags)
CALL(cuEventCreate, (CUevent *event, unsigned int flags), WORD(event), flags)
CALL(cuEventDestroy, (CUevent event), WORD(event))
CALL(cuEventRecord, (CUevent event, CUstream stream), WORD(event), WORD(stream))
CALL(cuEventQuery, (CUevent event), WORD(event))
CALL(cuEventSynchronize, (CUevent event), WORD(event))
CALL(cuEventElapsedTime, (float *milliseconds, CUevent start, CUevent end), WORD(milliseconds), WORD(start), WORD(end))
CALL(cuStreamBeginCapture, (CUstream stream, CUstreamCaptureMode mode), WORD(stream), mode)
CALL(cuStreamEndCapture, (CUstream stream, CUgraph *graph), WORD(stream), WORD(graph))
CALL(cuGraphInstantiateWithFlags, (CUgraphExec *executable, CUgraph graph, unsigned long long flags), WORD(executable),
     WORD(graph), flags)
CALL(cuGraphLaunch, (CUgraphExec executable, CUstream stream), WORD(executable), WORD(stream))
CALL(cuGraphDestroy, (CUgraph graph), WORD(graph))
CALL(cuGraphExecDestroy, (CUgraphExec executable), WORD(executable))

/* cuda.h renames a call to its newest version; whoever asks for it by name gets that one. */
#define ENTRY(name) {#name, (void *)name}
static const struct {
    const char *name;
    void *function;
} entries[] = {
    ENTRY(cuInit), ENTRY(cuDriverGetVersion), ENTRY(cuDeviceGetCount), ENTRY(cuDeviceGet), ENTRY(cuDeviceGetName),
    ENTRY(cuDeviceGetAttribute), ENTRY(cuDeviceTotalMem), ENTRY(cuDevicePrimaryCtxRetain),
    ENTRY(cuDevicePrimaryCtxRelease), ENTRY(cuCtxPushCurrent), ENTRY(cuCtxPopCurrent), ENTRY(cuCtxGetDevice),
    ENTRY(cuGetErrorName), ENTRY(cuGetErrorString), ENTRY(cuMemGetInfo), ENTRY(cuMemAlloc), ENTRY(cuMemFree),
    ENTRY(cuMemHostAlloc), ENTRY(cuMemFreeHost), ENTRY(cuMemcpyHtoDAsync), ENTRY(cuMemcpyDtoHAsync),
    ENTRY(cuStreamCreate), ENTRY(cuStreamDestroy), ENTRY(cuStreamSynchronize), ENTRY(cuStreamWaitEvent),
    ENTRY(cuEventCreate), ENTRY(cuEventDestroy), ENTRY(cuEventRecord), ENTRY(cuEventQuery), ENTRY(cuEventSynchronize),
    ENTRY(cuEventElapsedTime), ENTRY(cuStreamBeginCapture), ENTRY(cuStreamEndCapture),
    ENTRY(cuGraphInstantiateWithFlags), ENTRY(cuGraphLaunch), ENTRY(cuGraphDestroy), ENTRY(cuGraphExecDestroy),
};

CUresult CUDAAPI cuGetProcAddress(const char *name, void **function, int version, cuuint64_t flags,
                                  CUdriverProcAddressQueryResult *found) {
    (void)version, (void)flags;
    *function = strcmp(name, "cuGetProcAddress") == 0 ? (void *)cuGetProcAddress : 0;
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++)
        if (strcmp(entries[i].name, name) == 0)
            *function = entries[i].function;
    if (found)
        *found = *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
