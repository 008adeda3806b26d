// As much of HIP's header as MORI's host headers need to be compiled.
#pragma once
typedef int hipError_t;
typedef struct ihipStream_t* hipStream_t;
typedef struct {
  char reserved[64];
} hipIpcMemHandle_t;
enum { hipSuccess = 0 };
