#include "engine/io_queue.hpp"

#include "core/trace.hpp"

namespace ringscan {

IoQueue::IoQueue(bool has_thread) {
  if (!has_thread) return;
  worker_ = std::thread([this, trace = Trace::of_this_thread()] {
    const TraceBinding binding(trace, TraceThread::kIo);
    work_through();
  });
}

IoQueue::~IoQueue() {
  if (!worker_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_one();
  worker_.join();
}

void IoQueue::enqueue(std::function<void()> task) {
  if (!worker_.joinable()) {
    task();
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  changed_.notify_one();
}

void IoQueue::work_through() {
  for (;;) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return closing_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

}  // namespace ringscan
