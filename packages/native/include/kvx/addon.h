// Binds an Engine to Node-API. An engine addon calls register_engine once, in its init function.
//
// Lifetime rules, each of which was a crash before it was a rule.
//  1. One ThreadsafeFunction per engine, unreferenced at once: pending work keeps the loop alive by
//  hold().
//  2. The ThreadsafeFunction is made first, then the cleanup hook is added. Hooks run in reverse
//  order, so ours
//     stops and joins every thread before Node closes the function.
//  3. After the hook, nothing calls the function any more, and it is not released twice.
//  4. A function that still has queued calls may run after its release: its context is freed by its
//  finalizer only.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "kvx/convert.h"
#include "kvx/engine.h"
#include "kvx/handle.h"
#include "kvx/napi.h"

namespace kvx {

// Number of the agreement between register_engine and packages/native/src/engine.ts: which
// functions there are, their arguments, and their events. Change it with any of these, in both
// files: an addon that was compiled against other headers is then refused, where a call could wait
// for ever.
constexpr int kEngineInterface = 1;

class EngineHost {
 public:
  static constexpr uint64_t kTypeTag = 0x6b76782d656e6731;
  static constexpr const char* kTypeName = "a transfer engine";

  static std::shared_ptr<EngineHost> open(Napi::Env env, const DriverFactory& factory,
                                          Options options, Generation generation,
                                          Napi::Function on_event, uint64_t operation,
                                          Engine::Settings settings) {
    auto host = std::shared_ptr<EngineHost>(new EngineHost(env));
    host->engine_ = Engine::make(
        factory, std::move(options), std::move(generation),
        [weak = std::weak_ptr<EngineHost>(host)] {
          if (const auto self = weak.lock()) self->notify();
        },
        settings);
    host->function_ = Function::New(
        env, on_event, "kvx", 0, 1, new std::shared_ptr<EngineHost>(host),
        [](Napi::Env, void*, std::shared_ptr<EngineHost>* context) { delete context; },
        static_cast<void*>(nullptr));
    host->function_.Unref(env);
    napi_add_env_cleanup_hook(env, &EngineHost::on_env_end, host.get());
    host->engine_->open(operation);
    return host;
  }

  Engine& engine() { return *engine_; }

  // Keeps Node's event loop alive, or no longer.
  void hold(bool alive) {
    if (ended_) return;
    if (alive) {
      function_.Ref(env_);
    } else {
      function_.Unref(env_);
    }
  }

  // After close was answered: joins what has ended and lets go of JavaScript.
  void end() {
    if (ended_) return;
    napi_remove_env_cleanup_hook(env_, &EngineHost::on_env_end, this);
    stop(std::chrono::milliseconds(0));
  }

 private:
  static void deliver(Napi::Env env, Napi::Function on_event, std::shared_ptr<EngineHost>* context,
                      void*) {
    if (env == nullptr || (*context)->ended_) return;
    for (const Event& event : (*context)->engine_->take_events()) {
      const Napi::HandleScope scope(env);
      const auto number = [env](auto value) {
        return Napi::Number::New(env, static_cast<double>(value));
      };
      // Not as one object, each property of which would cost as much as all of this.
      on_event.Call({number(event.operation), number(static_cast<int>(event.kind)),
                     number(event.first), details_of(env, event)});
    }
  }
  using Function =
      Napi::TypedThreadSafeFunction<std::shared_ptr<EngineHost>, void, &EngineHost::deliver>;

  explicit EngineHost(Napi::Env env) : env_(env) {}

  static Napi::Value details_of(Napi::Env env, const Event& event) {
    if (event.kind == Event::Kind::kSettled) return env.Undefined();
    if (event.kind == Event::Kind::kDone) {
      if (!event.bytes.empty()) return detail::bytes_to_js(env, event.bytes);
      return Napi::Number::New(env, static_cast<double>(event.second));
    }
    auto texts = Napi::Array::New(env, 2);
    texts.Set(0U, event.kind == Event::Kind::kPeerGone ? event.peer : event.code);
    texts.Set(1U, event.message);
    return texts;
  }

  // Any thread, under the engine's lock.
  void notify() {
    const std::lock_guard lock(mutex_);
    if (!ended_) function_.NonBlockingCall();
  }

  static void on_env_end(void* host) {
    static_cast<EngineHost*>(host)->stop(std::chrono::milliseconds(100));
  }

  void stop(std::chrono::milliseconds drain) {
    if (ended_) return;
    engine_->stop(drain);
    const std::lock_guard lock(mutex_);
    ended_ = true;
    function_.Release();
  }

  napi_env env_;
  std::shared_ptr<Engine> engine_;
  std::mutex mutex_;
  bool ended_ = false;  // written on the JavaScript thread, under mutex_
  Function function_;
};

namespace detail {

inline Napi::Value describe(Napi::Env env, const Engine& engine) {
  const Capabilities capabilities = engine.capabilities();
  auto kinds = Napi::Array::New(env);
  for (uint32_t i = 0; i < capabilities.memory_kinds.size(); i++) {
    kinds.Set(i, capabilities.memory_kinds[i]);
  }
  auto object = Napi::Object::New(env);
  object.Set("memoryKinds", kinds);
  object.Set("crossHost", capabilities.cross_host);
  object.Set("fence", capabilities.fence);
  object.Set("maxSegmentBytes", static_cast<double>(capabilities.max_segment_bytes));
  object.Set("minEfficientRun", static_cast<double>(capabilities.min_efficient_run));
  object.Set("after", capabilities.after);
  object.Set("version", capabilities.version);
  object.Set("address", bytes_to_js(env, engine.address()));
  return object;
}

}  // namespace detail

// Puts the functions of `EngineBinding` (src/engine.ts) on `exports`. All of them return at once.
inline void register_engine(Napi::Env env, Napi::Object exports, DriverFactory factory,
                            Engine::Settings settings = {}) {
  using Info = const Napi::CallbackInfo&;
  const auto host_of = [](Info info) { return Handle<EngineHost>::unwrap(info[0]); };
  const auto put = [&](const char* name, auto function) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
  using detail::operation_of;

  exports.Set("engineInterface", Napi::Number::New(env, kEngineInterface));
  put("open", [factory = std::move(factory), settings](Info info) {
    return Handle<EngineHost>::wrap(
        info.Env(),
        EngineHost::open(info.Env(), factory, detail::options_of(info[1].As<Napi::Object>()),
                         info[2].As<Napi::String>(), info[3].As<Napi::Function>(),
                         operation_of(info[0]), settings));
  });
  put("describe",
      [host_of](Info info) { return detail::describe(info.Env(), host_of(info)->engine()); });
  put("register", [host_of](Info info) {
    host_of(info)->engine().register_memory(operation_of(info[1]),
                                            detail::memory_of(info[2].As<Napi::Object>()));
  });
  put("deregister", [host_of](Info info) {
    host_of(info)->engine().deregister_memory(operation_of(info[1]),
                                              info[2].As<Napi::Number>().Uint32Value());
  });
  put("connect", [host_of](Info info) -> Napi::Value {
    const auto host = host_of(info);
    PeerAddress peer;
    peer.generation = info[2].As<Napi::String>();
    peer.address = detail::bytes_of(info[3]);
    const auto regions = info[4].As<Napi::Array>();
    for (uint32_t i = 0; i < regions.Length(); i++) {
      peer.regions.push_back(detail::bytes_of(regions.Get(i)));
    }
    const uint64_t link = host->engine().connect(operation_of(info[1]), std::move(peer),
                                                 detail::milliseconds_of(info[5]));
    return Napi::Number::New(info.Env(), static_cast<double>(link));
  });
  put("cancelConnect",
      [host_of](Info info) { host_of(info)->engine().cancel_connect(operation_of(info[1])); });
  put("closeLink", [host_of](Info info) {
    host_of(info)->engine().close_link(operation_of(info[1]), operation_of(info[2]));
  });
  put("write", [host_of](Info info) {
    host_of(info)->engine().write(operation_of(info[1]), operation_of(info[2]),
                                  detail::plan_of(info[3], info[4], info[5]),
                                  detail::milliseconds_of(info[6]), detail::after_of(info[7]));
  });
  put("cancel", [host_of](Info info) {
    host_of(info)->engine().cancel(operation_of(info[1]), info[2].As<Napi::String>());
  });
  put("fence", [host_of](Info info) {
    host_of(info)->engine().fence(operation_of(info[1]), info[2].As<Napi::String>());
  });
  put("cancelFence",
      [host_of](Info info) { host_of(info)->engine().cancel_fence(operation_of(info[1])); });
  put("close", [host_of](Info info) { host_of(info)->engine().close(operation_of(info[1])); });
  put("hold", [host_of](Info info) { host_of(info)->hold(info[1].As<Napi::Boolean>()); });
  put("end", [host_of](Info info) { host_of(info)->end(); });
}

}  // namespace kvx
