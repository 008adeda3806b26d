// Starts a thread that blocks every signal: signals belong to the host's main thread.
#pragma once

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

namespace kvx {

// The system gave no thread.
class NoThread : public std::runtime_error {
 public:
  NoThread(const char* name, const std::system_error& error)
      : std::runtime_error(std::string("The thread ") + name +
                           " could not be started: " + error.code().message() +
                           ". Raise the limit on threads (ulimit -u, pids.max of the container) "
                           "or on memory (ulimit -v).") {}
};

// `name` shows in ps and debuggers; at most 15 characters. Throws NoThread.
template <typename Body>
std::thread start_thread(const char* name, Body&& body) {
  sigset_t all, before;
  sigfillset(&all);
  // The new thread inherits the mask, so that there is no moment in which it could take a signal.
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread;
  try {
    thread = std::thread(std::forward<Body>(body));
  } catch (const std::system_error& error) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw NoThread(name, error);
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
