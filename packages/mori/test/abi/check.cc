// Compiles kvx's declarations of MORI beside MORI's own and compares them. Compiling is the test.
#include <any>
#include <array>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <msgpack.hpp>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <sstream>  // before the next lines: the standard library is not to be opened up
#include <string>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>
// The statuses' members are private in MORI.
#define private public
#define protected public
#include "mori/io/engine.hpp"
#undef private
#undef protected

#include "abi.h"

namespace theirs = mori::io;
namespace ours = kvx::mori;

#define SAME_SIZE(mine, other) static_assert(sizeof(ours::mine) == sizeof(theirs::other), #mine)
#define SAME_PLACE(mine, field, other, name)                                                     \
  static_assert(offsetof(ours::mine, field) == offsetof(theirs::other, name), #mine "." #field); \
  static_assert(sizeof(ours::mine::field) == sizeof(theirs::other::name), #mine "." #field)
#define SAME_VALUE(mine, other) \
  static_assert(static_cast<uint32_t>(ours::mine) == static_cast<uint32_t>(theirs::other), #mine)

SAME_SIZE(EngineConfig, IOEngineConfig);
SAME_PLACE(EngineConfig, host, IOEngineConfig, host);
SAME_PLACE(EngineConfig, port, IOEngineConfig, port);

SAME_SIZE(EngineDesc, EngineDesc);
SAME_PLACE(EngineDesc, key, EngineDesc, key);
SAME_PLACE(EngineDesc, node_id, EngineDesc, nodeId);
SAME_PLACE(EngineDesc, hostname, EngineDesc, hostname);
SAME_PLACE(EngineDesc, host, EngineDesc, host);
SAME_PLACE(EngineDesc, port, EngineDesc, port);
SAME_PLACE(EngineDesc, pid, EngineDesc, pid);

SAME_SIZE(MemoryDesc, MemoryDesc);
SAME_PLACE(MemoryDesc, engine_key, MemoryDesc, engineKey);
SAME_PLACE(MemoryDesc, id, MemoryDesc, id);
SAME_PLACE(MemoryDesc, device_id, MemoryDesc, deviceId);
SAME_PLACE(MemoryDesc, device_bus_id, MemoryDesc, deviceBusId);
SAME_PLACE(MemoryDesc, data, MemoryDesc, data);
SAME_PLACE(MemoryDesc, size, MemoryDesc, size);
SAME_PLACE(MemoryDesc, location, MemoryDesc, loc);
SAME_PLACE(MemoryDesc, ipc_handle, MemoryDesc, ipcHandle);
SAME_PLACE(MemoryDesc, numa_node, MemoryDesc, numaNode);
SAME_PLACE(MemoryDesc, ipc_offset, MemoryDesc, ipcOffset);
SAME_PLACE(MemoryDesc, fabric_handle, MemoryDesc, fabricHandle);
SAME_PLACE(MemoryDesc, vpod_id, MemoryDesc, vpodId);
SAME_PLACE(MemoryDesc, vpod_ppod_id, MemoryDesc, vpodPpodId);
SAME_PLACE(MemoryDesc, fabric_offset, MemoryDesc, fabricOffset);
SAME_PLACE(MemoryDesc, fabric_alloc_size, MemoryDesc, fabricAllocSize);

SAME_SIZE(TransferStatus, TransferStatus);
SAME_PLACE(TransferStatus, code, TransferStatus, code);
SAME_PLACE(TransferStatus, mutex, TransferStatus, msgMu);
SAME_PLACE(TransferStatus, message, TransferStatus, msg);
SAME_PLACE(TransferStatus, wait_callback, TransferStatus, waitCallback);
SAME_PLACE(TransferStatus, progress_callback, TransferStatus, progressCallback);
SAME_PLACE(TransferStatus, changed, TransferStatus, cv_);

SAME_SIZE(RdmaConfig, RdmaBackendConfig);
SAME_PLACE(RdmaConfig, qp_per_transfer, RdmaBackendConfig, qpPerTransfer);
SAME_PLACE(RdmaConfig, post_batch_size, RdmaBackendConfig, postBatchSize);
SAME_PLACE(RdmaConfig, num_worker_threads, RdmaBackendConfig, numWorkerThreads);
SAME_PLACE(RdmaConfig, poll_mode, RdmaBackendConfig, pollCqMode);
SAME_PLACE(RdmaConfig, enable_notification, RdmaBackendConfig, enableNotification);
SAME_PLACE(RdmaConfig, notifications_per_qp, RdmaBackendConfig, notifPerQp);
SAME_PLACE(RdmaConfig, enable_chunking, RdmaBackendConfig, enableTransferChunking);
SAME_PLACE(RdmaConfig, chunk_bytes, RdmaBackendConfig, chunkBytes);
SAME_PLACE(RdmaConfig, max_chunks, RdmaBackendConfig, maxChunksPerTransfer);
SAME_PLACE(RdmaConfig, nics_per_transfer, RdmaBackendConfig, numNicsPerTransfer);
SAME_PLACE(RdmaConfig, max_send_wr, RdmaBackendConfig, maxSendWr);
SAME_PLACE(RdmaConfig, max_cqe, RdmaBackendConfig, maxCqeNum);
SAME_PLACE(RdmaConfig, max_sge, RdmaBackendConfig, maxMsgSge);

static_assert(ours::kEngineBytes == sizeof(theirs::IOEngine));
SAME_PLACE(EngineHead, config, IOEngine, config);
SAME_PLACE(EngineHead, desc, IOEngine, desc);
SAME_SIZE(Session, IOEngineSession);
SAME_PLACE(Session, engine, IOEngineSession, engine);
SAME_PLACE(Session, backend, IOEngineSession, backendSess);
static_assert(sizeof(std::optional<ours::Session>) ==
              sizeof(std::optional<theirs::IOEngineSession>));

SAME_VALUE(BackendType::kRdma, BackendType::RDMA);
SAME_VALUE(MemoryLocation::kCpu, MemoryLocationType::CPU);
SAME_VALUE(MemoryLocation::kGpu, MemoryLocationType::GPU);
SAME_VALUE(PollMode::kPolling, PollCqMode::POLLING);
SAME_VALUE(Code::kSuccess, StatusCode::SUCCESS);
SAME_VALUE(Code::kInit, StatusCode::INIT);
SAME_VALUE(Code::kInProgress, StatusCode::IN_PROGRESS);
SAME_VALUE(Code::kErrorsBegin, StatusCode::ERR_BEGIN);
SAME_VALUE(Code::kInvalidArguments, StatusCode::ERR_INVALID_ARGS);
SAME_VALUE(Code::kRdma, StatusCode::ERR_RDMA_OP);
SAME_VALUE(Code::kBadState, StatusCode::ERR_BAD_STATE);

// The types of the members that are called by name.
static_assert(std::is_same_v<decltype(&theirs::IOEngine::RegisterMemory),
                             theirs::MemoryDesc (theirs::IOEngine::*)(void*, size_t, int,
                                                                      theirs::MemoryLocationType)>);
static_assert(std::is_same_v<decltype(&theirs::IOEngine::CreateSession),
                             std::optional<theirs::IOEngineSession> (theirs::IOEngine::*)(
                                 const theirs::MemoryDesc&, const theirs::MemoryDesc&)>);
static_assert(std::is_same_v<decltype(&theirs::IOEngineSession::BatchWrite),
                             void (theirs::IOEngineSession::*)(
                                 const ours::Sizes&, const ours::Sizes&, const ours::Sizes&,
                                 theirs::TransferStatus*, uint64_t)>);
static_assert(std::is_same_v<decltype(&theirs::IOEngineSession::AllocateTransferUniqueId),
                             uint64_t (theirs::IOEngineSession::*)()>);
