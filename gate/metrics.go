// Defines and counts the gate's metrics for Prometheus.

package gate

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

type counts struct {
	registry   *prometheus.Registry
	requests   *prometheus.CounterVec
	vouched    *prometheus.CounterVec
	bytes      *prometheus.CounterVec
	cuts       prometheus.Counter
	refusals   prometheus.Counter
	handshakes prometheus.Counter
	underWay   prometheus.Gauge
	listeners  prometheus.Gauge
}

func newCounts(tokens *store.Reader) counts {
	c := counts{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "terok_gate_requests_total", Help: "Requests by the code of their answer.",
		}, []string{"code"}),
		vouched: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "terok_gate_vouched_requests_total", Help: "Requests that a host has vouched for, by the code of their answer.",
		}, []string{"host", "code"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "terok_gate_bytes_total", Help: "Bytes of packs, and of git's protocol around them.",
		}, []string{"service"}),
		cuts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "terok_gate_cuts_total", Help: "Requests that were cut, as in the trail.",
		}),
		refusals: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "terok_gate_refusals_total", Help: "Requests that were refused, as in the trail. Git's first request, which has no token, is not counted.",
		}),
		handshakes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "terok_gate_handshake_failures_total", Help: "Connections to --tls-listen whose handshake failed.",
		}),
		underWay: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "terok_gate_requests_under_way", Help: "Requests that are being served or wait for a slot.",
		}),
		listeners: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "terok_gate_listeners", Help: "Addresses and containers' networks that the gate serves.",
		}),
	}

	c.registry.MustRegister(c.requests, c.vouched, c.bytes, c.cuts, c.refusals, c.handshakes, c.underWay, c.listeners,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "terok_gate_tokens", Help: "Entries of the token file.",
		}, func() float64 {
			number, _ := tokens.Tokens()
			return float64(number)
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "terok_gate_token_file_age_seconds", Help: "Time since the token file was last read.",
		}, func() float64 {
			_, readAt := tokens.Tokens()
			return time.Since(readAt).Seconds()
		}))
	return c
}

// count counts a request that has ended.
func (c counts) count(service string, bytes int64, event string, code int) {
	c.requests.WithLabelValues(strconv.Itoa(code)).Inc()
	if bytes > 0 {
		c.bytes.WithLabelValues(service).Add(float64(bytes))
	}
	switch event {
	case trail.Cut:
		c.cuts.Inc()
	case trail.Refused:
		c.refusals.Inc()
	}
}
