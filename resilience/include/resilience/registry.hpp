#pragma once
/// Named instances and named configurations.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include <resilience/clock.hpp>
#include <resilience/events.hpp>

namespace resilience {

/// When a registry forgets instances that nobody else holds. For registries keyed by what clients send; by default
/// nothing is forgotten.
struct registry_limits {
  /// Above so many, those longest not asked for go, an eighth at a time. 0: no limit. Instances that someone holds stay
  /// whatever their number.
  std::size_t max_entries = 0;
  /// What was not asked for so long goes when another instance is made, or by `evict_idle`. 0: never.
  std::chrono::nanoseconds idle{};
};

/// What a registry knows of an instance besides its name: a team, a tier.
using registry_tags = std::map<std::string, std::string, std::less<>>;

/// An instance came, went, or was exchanged. `before` is set for removed and replaced, `now` for added and replaced.
template <class T>
struct registry_event {
  std::string_view name;
  std::shared_ptr<T> before;
  std::shared_ptr<T> now;
};

namespace detail {

/// What `T::config()` returns; nothing of use for a T without.
template <class T>
struct config_of {
  using type = std::monostate;
};
template <class T>
  requires requires(const T& t) { t.config(); }
struct config_of<T> {
  using type = std::remove_cvref_t<decltype(std::declval<const T&>().config())>;
};

}  // namespace detail

/// Instances of one kind of policy, made once for each name and shared.
///
/// Threads: any. Finding takes a shared lock and builds no string. Consumers of events and of `for_each` run with no
/// lock held.
template <class T, clock_source Clock = std::chrono::steady_clock>
class registry {
 public:
  /// What `T` is constructed from besides its name.
  using config_type = typename detail::config_of<T>::type;
  using pointer = std::shared_ptr<T>;
  using tags_type = registry_tags;

  explicit registry(registry_limits limits = {}, Clock clock = {}) : limits_(limits), clock_(std::move(clock)) {}

  /// The instance of this name, made by `make()` where there is none. `make` returns a pointer or a T, runs once, under
  /// the lock, and must not use the registry; when it throws, nothing has changed.
  template <std::invocable Make>
  pointer find_or_make(std::string_view name, Make make, tags_type tags = {}) {
    if (pointer found = find(name)) return found;
    std::vector<registry_event<T>> gone;
    std::vector<std::string> names;
    pointer made;
    {
      const std::unique_lock lock(mutex_);
      if (auto it = entries_.find(name); it != entries_.end()) return touched(it->second);
      made = owned(make);
      if (!made) throw std::invalid_argument("a registry holds no null instance: " + std::string(name));
      evict(gone, names);
      entries_.try_emplace(std::string(name), made, std::move(tags), stamp());
    }
    for (const auto& e : gone) removed_.publish(e);
    added_.publish({name, nullptr, made});
    return made;
  }

  /// The same, made from a named configuration. Throws std::invalid_argument where there is none of that name.
  pointer find_or_make(std::string_view name, std::string_view config_name = "default", tags_type tags = {}) {
    if (pointer found = find(name)) return found;
    return find_or_make(
        name, [&, made_from = config(config_name)] { return std::make_shared<T>(std::string(name), made_from); },
        std::move(tags));
  }

  /// Null where there is none.
  [[nodiscard]] pointer find(std::string_view name) const {
    const std::shared_lock lock(mutex_);
    const auto it = entries_.find(name);
    return it == entries_.end() ? nullptr : touched(it->second);
  }

  /// Takes the instance out and returns it; those who hold it go on with it. Null where there is none.
  pointer remove(std::string_view name) {
    pointer before;
    {
      const std::unique_lock lock(mutex_);
      const auto it = entries_.find(name);
      if (it == entries_.end()) return nullptr;
      before = std::move(it->second.instance);
      entries_.erase(it);
    }
    removed_.publish({name, before, nullptr});
    return before;
  }

  /// Puts `now` in the place of the instance of this name and returns the one before, or null, with nothing changed,
  /// where there is none. Tags stay.
  pointer replace(std::string_view name, pointer now) {
    if (!now) throw std::invalid_argument("a registry holds no null instance: " + std::string(name));
    pointer before;
    {
      const std::unique_lock lock(mutex_);
      const auto it = entries_.find(name);
      if (it == entries_.end()) return nullptr;
      before = std::exchange(it->second.instance, now);
    }
    replaced_.publish({name, before, now});
    return before;
  }

  /// Calls `see(name, instance)` for each instance of one moment, in the order of their names.
  template <std::invocable<const std::string&, T&> See>
  void for_each(See see) const {
    std::map<std::string, pointer> all;
    {
      const std::shared_lock lock(mutex_);
      for (const auto& [name, e] : entries_) all.emplace(name, e.instance);
    }
    for (const auto& [name, instance] : all) see(name, *instance);
  }

  [[nodiscard]] std::size_t size() const {
    const std::shared_lock lock(mutex_);
    return entries_.size();
  }

  /// Empty where there is no such instance.
  [[nodiscard]] tags_type tags(std::string_view name) const {
    const std::shared_lock lock(mutex_);
    const auto it = entries_.find(name);
    return it == entries_.end() ? tags_type{} : it->second.tags;
  }

  /// Forgets what the limits say is idle. Returns how many went.
  std::size_t evict_idle() {
    std::vector<registry_event<T>> gone;
    std::vector<std::string> names;
    {
      const std::unique_lock lock(mutex_);
      evict_older(gone, names);
    }
    for (const auto& e : gone) removed_.publish(e);
    return gone.size();
  }

  /// Names a configuration: `base` with `edit(config)` applied. "default" is the base of all others and is the kind's
  /// own default until it is set here. A change of a base shows in what inherits from it; instances keep theirs.
  /// Throws std::invalid_argument for an unknown base, or when a configuration would inherit from itself.
  template <std::invocable<config_type&> Edit>
  void add_config(std::string name, Edit edit, std::string base = "default") {
    const std::unique_lock lock(mutex_);
    if (name != "default") {
      for (std::string_view at = base; at != "default"; at = configs_.find(at)->second.base) {
        if (at == name) throw std::invalid_argument("configuration " + name + " would inherit from itself");
        if (!configs_.contains(at)) throw std::invalid_argument("unknown base configuration: " + base);
      }
    }
    configs_.insert_or_assign(std::move(name), named_config{std::move(base), std::move(edit)});
  }
  /// Names a configuration that inherits nothing.
  void add_config(std::string name, const config_type& config) {
    add_config(std::move(name), [config](config_type& c) { c = config; });
  }

  /// Nothing where there is none of that name; "default" is always there.
  [[nodiscard]] std::optional<config_type> find_config(std::string_view name) const {
    const std::shared_lock lock(mutex_);
    return resolved(name);
  }
  /// Throws std::invalid_argument where there is none of that name.
  [[nodiscard]] config_type config(std::string_view name = "default") const {
    auto found = find_config(name);
    if (!found) throw std::invalid_argument("unknown configuration: " + std::string(name));
    return *found;
  }

  using consumer = typename signal<registry_event<T>>::consumer;
  subscription on_added(consumer call) { return added_.subscribe(std::move(call)); }
  subscription on_removed(consumer call) { return removed_.subscribe(std::move(call)); }
  subscription on_replaced(consumer call) { return replaced_.subscribe(std::move(call)); }

 private:
  struct hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view s) const noexcept { return std::hash<std::string_view>{}(s); }
  };

  struct entry {
    entry(pointer i, tags_type t, time_point used) : instance(std::move(i)), tags(std::move(t)), last_used(used) {}
    pointer instance;
    tags_type tags;
    mutable std::atomic<time_point> last_used;
  };

  struct named_config {
    std::string base;
    std::function<void(config_type&)> edit;
  };

  using entries_type = std::unordered_map<std::string, entry, hash, std::equal_to<>>;

  template <class Make>
  static pointer owned(Make& make) {
    using made = std::invoke_result_t<Make&>;
    if constexpr (std::convertible_to<made, pointer>) {
      return make();
    } else {
      return pointer(new T(make()));  // in place: policies do not move
    }
  }

  [[nodiscard]] bool forgets() const noexcept { return limits_.max_entries != 0 || limits_.idle.count() != 0; }
  [[nodiscard]] time_point stamp() const { return forgets() ? clock_.now() : time_point{}; }

  const pointer& touched(const entry& e) const {
    if (forgets()) e.last_used.store(clock_.now(), std::memory_order_relaxed);
    return e.instance;
  }

  std::optional<config_type> resolved(std::string_view name) const {
    const auto it = configs_.find(name);
    if (it == configs_.end()) return name == "default" ? std::optional<config_type>(config_type{}) : std::nullopt;
    auto c = name == "default" ? std::optional<config_type>(config_type{}) : resolved(it->second.base);
    if (c) it->second.edit(*c);
    return c;
  }

  /// Nobody but the registry holds it. Exact under the unique lock: what is shared here is shared under the lock.
  static bool unheld(const entry& e) noexcept { return e.instance.use_count() == 1; }

  typename entries_type::iterator take(typename entries_type::iterator it, std::vector<registry_event<T>>& gone,
                                       std::vector<std::string>& names) {
    names.push_back(it->first);
    gone.push_back({{}, std::move(it->second.instance), nullptr});
    return entries_.erase(it);
  }

  static void label(std::vector<registry_event<T>>& gone, const std::vector<std::string>& names) {
    for (std::size_t i = 0; i < gone.size(); ++i) gone[i].name = names[i];
  }

  void evict_older(std::vector<registry_event<T>>& gone, std::vector<std::string>& names) {
    if (limits_.idle.count() == 0) return;
    const time_point now = clock_.now();
    for (auto it = entries_.begin(); it != entries_.end();) {
      const bool idle = now - it->second.last_used.load(std::memory_order_relaxed) >= limits_.idle;
      it = idle && unheld(it->second) ? take(it, gone, names) : std::next(it);
    }
    label(gone, names);
  }

  /// Makes room for one more.
  void evict(std::vector<registry_event<T>>& gone, std::vector<std::string>& names) {
    if (!forgets()) return;
    const bool full = limits_.max_entries != 0 && entries_.size() >= limits_.max_entries;
    // Looking through all costs as much as there are entries, so it is done only once for each eighth of them made.
    if (!full && ++made_since_look_ * 8 < entries_.size()) return;
    if (full && ++made_since_look_ * 8 < entries_.size() - limits_.max_entries) return;  // all held: look less often
    made_since_look_ = 0;
    evict_older(gone, names);
    if (limits_.max_entries == 0 || entries_.size() < limits_.max_entries) return;
    std::vector<std::pair<time_point, typename entries_type::iterator>> oldest;
    for (auto it = entries_.begin(); it != entries_.end(); ++it) {
      if (unheld(it->second)) oldest.emplace_back(it->second.last_used.load(std::memory_order_relaxed), it);
    }
    const std::size_t surplus = entries_.size() + 1 - limits_.max_entries;
    const std::size_t count = std::min(oldest.size(), surplus + limits_.max_entries / 8);
    std::nth_element(oldest.begin(), oldest.begin() + static_cast<std::ptrdiff_t>(count), oldest.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    for (std::size_t i = 0; i < count; ++i) take(oldest[i].second, gone, names);
    label(gone, names);
  }

  const registry_limits limits_;
  [[no_unique_address]] Clock clock_;
  mutable std::shared_mutex mutex_;
  entries_type entries_;
  std::map<std::string, named_config, std::less<>> configs_;
  std::size_t made_since_look_ = 0;
  signal<registry_event<T>> added_;
  signal<registry_event<T>> removed_;
  signal<registry_event<T>> replaced_;
};

}  // namespace resilience
