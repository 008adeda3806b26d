// Starts a thread that blocks every signal: signals belong to the host's main thread.
#pragma once

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <thread>
#include <utility>

namespace kvx {

// `name` shows in ps and debuggers; at most 15 characters.
template <typename Body>
std::thread start_thread(const char* name, Body&& body) {
  sigset_t all, before;
  sigfillset(&all);
  // The new thread inherits the mask, so that there is no moment in which it could take a signal.
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread;
  try {
    thread = std::thread(std::forward<Body>(body));
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_setname_np(thread.native_handle(), name);
  // Batch threads do not preempt who wakes them: a write would otherwise be interrupted by its own
  // link thread, and hold up the JavaScript thread for as long as that one runs.
  const sched_param normal{};
  pthread_setschedparam(thread.native_handle(), SCHED_BATCH, &normal);
  return thread;
}

}  // namespace kvx
