// Work off the JavaScript thread, as a promise.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "kvx/driver.h"
#include "kvx/napi.h"

namespace kvx {

class Task : public Napi::AsyncWorker {
 public:
  // `work` runs on a thread of Node's pool; `result` makes the promise's value of what it left. A
  // DriverError rejects the promise with an Error that has its code. `held` stays reachable
  // meanwhile.
  static Napi::Promise start(Napi::Env env, const char* name, std::function<void()> work,
                             std::function<Napi::Value(Napi::Env)> result,
                             std::optional<Napi::Object> held = std::nullopt) {
    auto* task = new Task(env, name, std::move(work), std::move(result));
    if (held) task->held_ = Napi::Persistent(*held);
    const Napi::Promise promise = task->deferred_.Promise();
    task->Queue();  // deletes itself when it has ended
    return promise;
  }

 protected:
  void Execute() override {
    try {
      work_();
    } catch (const DriverError& error) {
      code_ = error.code();
      SetError(error.what());
    }
  }
  void OnOK() override { deferred_.Resolve(result_(Env())); }
  void OnError(const Napi::Error& error) override {
    if (!code_.empty()) error.Set("code", code_);
    deferred_.Reject(error.Value());
  }

 private:
  Task(Napi::Env env, const char* name, std::function<void()> work,
       std::function<Napi::Value(Napi::Env)> result)
      : Napi::AsyncWorker(env, name),
        deferred_(Napi::Promise::Deferred::New(env)),
        work_(std::move(work)),
        result_(std::move(result)) {}

  Napi::Promise::Deferred deferred_;
  const std::function<void()> work_;
  const std::function<Napi::Value(Napi::Env)> result_;
  Napi::ObjectReference held_;
  std::string code_;
};

}  // namespace kvx
