#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <thread>

namespace ringscan {

/// Runs reading and writing in the order it was asked for: beside the computation on one thread of its own, or, where
/// the transport does not support that, at once in the caller. Collective calls so happen in one order on all ranks.
/// Its thread records into the trace of the thread that made it.
class IoQueue {
 public:
  explicit IoQueue(bool has_thread);
  /// Runs what is queued to its end: all ranks have queued the same, and each needs the others in it.
  ~IoQueue();
  IoQueue(const IoQueue&) = delete;
  IoQueue& operator=(const IoQueue&) = delete;

  bool has_thread() const { return worker_.joinable(); }

  /// The future carries the exception where `work` throws.
  template <typename Result>
  std::future<Result> submit(std::function<Result()> work) {
    auto task = std::make_shared<std::packaged_task<Result()>>(std::move(work));
    std::future<Result> result = task->get_future();
    enqueue([task] { (*task)(); });
    return result;
  }

 private:
  void enqueue(std::function<void()> task);
  void work_through();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  bool closing_ = false;
  std::thread worker_;
};

}  // namespace ringscan
