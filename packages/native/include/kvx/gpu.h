// GPU memory: found, shared between processes, copied. No JavaScript in it, and no CUDA header,
// toolkit or library: the driver (libcuda.so.1) is found at run time.
//
// Calls go down only. From the bottom up, each in a file of its own in gpu/:
//
//  api.h       the driver's functions as a table of pointers, and the types that they take
//  cuda.h      the table of CUDA: cuda() finds the library once, or throws why there is none
//  devices.h   Uuid, and devices(): what there is, without a context. Takes 0.2 s to 0.5 s
//  context.h   Context: the primary context of one GPU, shared with whatever else in the process
//              uses CUDA; the first error that CUDA cannot recover from is remembered here
//  share.h     Shared: what another process needs to reach a range of GPU memory. Plain data and
//              file descriptors; encode() and decode() for what travels in a region's descriptor
//  export.h    share(context, address, bytes) -> Shared, or throws why the range cannot be shared;
//              share_file, share_handle: of what a host hands over, without a context
//  import.h    Importer: maps Shared for one GPU; equal allocations are mapped once
//  allocate.h  Allocation: memory of kvx, which can be shared by a file descriptor
//  host.h      HostMemory: a range of this process' memory that a GPU reaches
//  batch.h     Batch: what is copied, as lanes x pages with addresses; made from a Plan or from
//              Segments. Pure
//  pieces.h    what of a Batch is large pieces of the host's memory, for a copy engine. Pure
//  copier.h    Copier: copies a Batch on one GPU, by a kernel and copy engines; completion by poll
//  digest.h    digest of the logical cache of GPU memory: the same values as kvx/digest.h
//  kernels.h   the kernels as PTX text, made of kernels/*.cu
//
// How a writer uses it, for an owner's region that is on a GPU:
//
//   const auto context = gpu::Context::open(ordinal);   // of the GPU that copies: the source's,
//                                                       // or the destination's for host sources
//   gpu::Importer importer(context);                    // one per peer
//   gpu::Copier copier(context, settings);              // one per GPU and engine
//   const auto there = importer.map(shared);            // holds the mapping: there->address()
//   const auto batch = gpu::batch_of(plan, resolve, context->ordinal());
//   const auto ticket = copier.submit(batch, after, cancelled);       // one launch; any thread
//   while (copier.poll(ticket, reason) == State::kPending) {}         // the poll thread
//
// Everything throws DriverError: ERR_KVX_BACKEND_UNAVAILABLE (no driver, no such GPU),
// ERR_KVX_MEMORY (cannot be allocated, shared or registered), ERR_KVX_CONNECT_FAILED (cannot be
// mapped), ERR_KVX_TRANSFER_FAILED (cannot be launched). All of it may be called from any thread,
// unless a class says otherwise, but not from a forked child: CUDA does not survive a fork.
#pragma once

#include "kvx/gpu/allocate.h"
#include "kvx/gpu/batch.h"
#include "kvx/gpu/context.h"
#include "kvx/gpu/copier.h"
#include "kvx/gpu/cuda.h"
#include "kvx/gpu/devices.h"
#include "kvx/gpu/digest.h"
#include "kvx/gpu/export.h"
#include "kvx/gpu/host.h"
#include "kvx/gpu/import.h"
#include "kvx/gpu/share.h"
