#include "sidecar/admin/feed.hpp"

namespace sidecar {

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace {
constexpr std::size_t most_unsent = 256 * 1024;
constexpr std::size_t most_listeners = 64;
constexpr auto silence = 15s;
}  // namespace

void feed::publish(std::string_view event, std::string_view data) {
  if (listeners() == 0) return;
  std::string text = "event: ";
  text.append(event).append("\ndata: ").append(data).append("\n\n");
  asio::post(io_, [this, text = std::move(text)] { deliver(text); });
}

void feed::deliver(const std::string& text) {
  for (listener* l : all_) {
    if (l->unsent.size() + text.size() > most_unsent) {
      l->overrun = true;
    } else {
      l->unsent += text;
    }
    l->news.cancel();
  }
}

asio::awaitable<void> feed::serve(common::http::event_stream& out) {
  if (all_.size() >= most_listeners) {
    out.head.status = 503;
    co_await out.send("");
    co_return;
  }
  listener me(io_);
  struct joined {
    joined(feed& f, listener& l) : of(f), who(l) {
      of.all_.insert(&who);
      of.listening_.store(of.all_.size(), std::memory_order_relaxed);
    }
    ~joined() {
      of.all_.erase(&who);
      of.listening_.store(of.all_.size(), std::memory_order_relaxed);
    }
    feed& of;
    listener& who;
  } const here(*this, me);

  bool open = co_await out.send(": live\n\n");
  while (open && !me.overrun) {
    if (me.unsent.empty()) {
      me.news.expires_after(silence);
      boost::system::error_code interrupted;
      co_await me.news.async_wait(asio::redirect_error(asio::use_awaitable, interrupted));
    }
    const auto state = co_await asio::this_coro::cancellation_state;
    if (state.cancelled() != asio::cancellation_type::none) co_return;
    std::string text = me.unsent.empty() ? std::string(": still here\n\n") : std::exchange(me.unsent, {});
    open = co_await out.send(std::move(text));
  }
}

}  // namespace sidecar
