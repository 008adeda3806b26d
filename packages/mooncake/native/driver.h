// The Driver over Mooncake's TransferEngine.
#pragma once

#include <memory>

#include "kvx/driver.h"

namespace kvx::mooncake {

// Options:
//   library       path of engine.so or libtransfer_engine.so
//   requestBytes  what self_test answered for it
//   version       what is known of its version; only told on
//   protocol      "tcp" or "rdma"
//   devices       RDMA devices, joined by commas; empty: all
//   hostname      by which peers reach this machine
//   metadata      "P2PHANDSHAKE" or an http(s) address
//   maxBatch, maxSegmentBytes
//   closeMs       how long closing waits for targets that hold unread bytes
std::unique_ptr<Driver> make_driver(const Options& options, const DriverContext& context);

}  // namespace kvx::mooncake
