// SPDX-License-Identifier: Apache-2.0

// Package otlp pushes what package export tells to an OpenTelemetry collector, by HTTP: metrics
// now and then, and a log record for each finding. It never makes its callers wait: what the
// collector does not take is tried again, and in the end counted.
package otlp

import (
	"context"
	"fmt"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	bridge "go.opentelemetry.io/contrib/bridges/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"

	"afterfin/internal/export"
)

// Config says whither. What else there is to say, OpenTelemetry's own environment variables do:
// OTEL_EXPORTER_OTLP_HEADERS, _CERTIFICATE, _TIMEOUT, OTEL_RESOURCE_ATTRIBUTES.
type Config struct {
	Endpoint  string        // as http://127.0.0.1:4318; the paths of the signals come behind it
	Every     time.Duration // metrics
	FirstWait time.Duration // before a record is tried again; 0: a second
	Version   string        // of afterfin
}

// Exporter pushes until Close.
type Exporter struct {
	metrics *sdkmetric.MeterProvider
	logs    *sdklog.LoggerProvider
	logger  log.Logger
	queue   *queue
	failed  atomic.Uint64
}

// Parse is the error of an endpoint that is no URL, or the URL.
func Parse(endpoint string) (*url.URL, error) {
	base, err := url.Parse(endpoint)
	if err != nil || base.Hostname() == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fmt.Errorf("%q is no http or https URL", endpoint)
	}
	return base, nil
}

// New begins to push. An endpoint that is no URL is an error, one where nobody listens is not.
func New(ctx context.Context, cfg Config, from prometheus.Gatherer) (*Exporter, error) {
	base, err := Parse(cfg.Endpoint)
	if err != nil {
		return nil, err
	}
	about, err := resource.New(ctx, resource.WithHost(), resource.WithAttributes(
		attribute.String("service.name", "afterfin"), attribute.String("service.version", cfg.Version)), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("describe this host: %w", err)
	}
	// Without an attempt at once: metrics are cumulative, so the next ones say it all.
	metrics, err := otlpmetrichttp.New(ctx, otlpmetrichttp.WithEndpointURL(base.JoinPath("v1/metrics").String()),
		otlpmetrichttp.WithRetry(otlpmetrichttp.RetryConfig{}))
	if err != nil {
		return nil, fmt.Errorf("push metrics: %w", err)
	}
	logs, err := otlploghttp.New(ctx, otlploghttp.WithEndpointURL(base.JoinPath("v1/logs").String()),
		otlploghttp.WithRetry(otlploghttp.RetryConfig{}))
	if err != nil {
		return nil, fmt.Errorf("push logs: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {})) // counted, and not told each time
	e := &Exporter{}
	gather := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		families, err := from.Gather()
		if err != nil { // then there is nothing in the push, and it succeeds
			e.failed.Add(1)
		}
		return families, err
	})
	reader := sdkmetric.NewPeriodicReader(&counting{metrics, &e.failed}, sdkmetric.WithInterval(cfg.Every),
		sdkmetric.WithProducer(producer{bridge.NewMetricProducer(bridge.WithGatherer(gather))}))
	e.metrics = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader), sdkmetric.WithResource(about))
	first := firstWait
	if cfg.FirstWait > 0 {
		first = cfg.FirstWait
	}
	e.queue = newQueue(logs, first)
	e.logs = sdklog.NewLoggerProvider(sdklog.WithProcessor(e.queue), sdklog.WithResource(about))
	e.logger = e.logs.Logger("afterfin", log.WithInstrumentationVersion(cfg.Version))
	return e, nil
}

// Close pushes what waits and then metrics once more, as far as that works within ctx. The records
// go first: the metrics can be had without a push.
func (e *Exporter) Close(ctx context.Context) {
	_ = e.logs.Shutdown(ctx) // the collector may be down
	_ = e.metrics.Shutdown(ctx)
}

// Dropped counts log records that the collector refused, or that there was no room or no time for,
// and Failed the pushes of metrics that failed.
func (e *Exporter) Dropped() uint64 { return e.queue.dropped.Load() }

// Failed is described with Dropped.
func (e *Exporter) Failed() uint64 { return e.failed.Load() }

// Tell sends a record for each.
func (e *Exporter) Tell(found []export.Finding) {
	for i := range found {
		r := record(&found[i])
		e.logger.Emit(context.Background(), r)
	}
}

// counting is an exporter whose failures are counted.
type counting struct {
	sdkmetric.Exporter
	failed *atomic.Uint64
}

func (c *counting) Export(ctx context.Context, m *metricdata.ResourceMetrics) error {
	err := c.Exporter.Export(ctx, m)
	if err != nil {
		c.failed.Add(1)
	}
	return err
}

// producer translates what another one gives.
type producer struct{ sdkmetric.Producer }

func (p producer) Produce(ctx context.Context) ([]metricdata.ScopeMetrics, error) {
	scopes, err := p.Producer.Produce(ctx)
	for i := range scopes {
		scopes[i].Scope.Name = "afterfin"
		scopes[i].Metrics = translate(scopes[i].Metrics)
	}
	return scopes, err
}
