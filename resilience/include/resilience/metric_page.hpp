#pragma once
/// What answers one scrape of Prometheus. Needs prometheus-cpp (core).

#include <prometheus/client_metric.h>
#include <prometheus/metric_family.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace resilience {

/// The answer to one scrape: families in the order of their first sample. A sample with the labels of an earlier one
/// replaces it, for a scrape must not hold both.
class metric_page {
 public:
  using label = std::pair<std::string_view, std::string_view>;
  using labels = std::initializer_list<label>;

  void gauge(std::string_view name, std::string_view help, double value, labels with) {
    sample(name, help, prometheus::MetricType::Gauge, with).gauge.value = value;
  }
  void counter(std::string_view name, std::string_view help, double value, labels with) {
    sample(name, help, prometheus::MetricType::Counter, with).counter.value = value;
  }
  /// `name`_count and `name`_sum.
  void timer(std::string_view name, std::string_view help, std::uint64_t count, std::chrono::nanoseconds sum,
             labels with) {
    auto& summary = sample(name, help, prometheus::MetricType::Summary, with).summary;
    summary.sample_count = count;
    summary.sample_sum = std::chrono::duration<double>(sum).count();
  }
  /// `counts` has one more than `bounds`: what lies above the last one. Not cumulative.
  template <class Bounds, class Counts>
  void histogram(std::string_view name, std::string_view help, const Bounds& bounds, const Counts& counts, double sum,
                 labels with) {
    auto& h = sample(name, help, prometheus::MetricType::Histogram, with).histogram;
    h.sample_sum = sum;
    for (std::size_t i = 0; i < bounds.size(); ++i) {
      h.sample_count += counts[i];
      h.bucket.push_back({h.sample_count, bounds[i]});
    }
    h.sample_count += counts[bounds.size()];
  }

  [[nodiscard]] std::vector<prometheus::MetricFamily> take() { return std::move(families_); }

 private:
  prometheus::ClientMetric& sample(std::string_view name, std::string_view help, prometheus::MetricType type,
                                   labels with) {
    const auto [known, is_new] = index_.try_emplace(std::string(name));
    auto& [position, metrics] = known->second;
    if (is_new) {
      position = families_.size();
      families_.push_back({known->first, std::string(help), type, {}});
    }
    std::vector<prometheus::ClientMetric>& samples = families_[position].metric;
    std::vector<prometheus::ClientMetric::Label> wanted;
    for (const auto& [key, value] : with) wanted.push_back({std::string(key), std::string(value)});
    const auto [at, first] = metrics.try_emplace(std::move(wanted), samples.size());
    if (first) samples.emplace_back();
    prometheus::ClientMetric& metric = samples[at->second];
    metric = {};
    metric.label = at->first;
    return metric;
  }

  /// Where a family stands, and each of its samples.
  struct place {
    std::size_t position = 0;
    std::map<std::vector<prometheus::ClientMetric::Label>, std::size_t> metrics;
  };
  std::vector<prometheus::MetricFamily> families_;
  std::map<std::string, place> index_;
};

}  // namespace resilience
