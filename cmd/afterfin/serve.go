// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/exporter-toolkit/web"
	"github.com/spf13/cobra"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"afterfin/internal/export"
	"afterfin/internal/feed"
	"afterfin/internal/otlp"
	"afterfin/internal/recorder"
	"afterfin/internal/tcp"
	"afterfin/internal/tracer"
)

// serveOptions are the flags of serve, checked.
type serveOptions struct {
	addresses []string
	webConfig string
	socket    string // empty: no flight recorder
	every     time.Duration
	leaks     leaksOptions
	export    export.Options
	otlp      otlp.Config // no Endpoint: nothing is pushed
	check     bool
}

func serveCommand(e env) *cobra.Command {
	var (
		o         serveOptions
		filter    filterFlags
		rules     []string
		rulesFile string
	)
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Prometheus metrics of it all, and the flight recorder that leaks, timewait and ports ask",
		Long: "Runs until it is ended. Counts in the kernel, looks at the sockets now and then, and remembers since\n" +
			"when and from where those in CLOSE_WAIT wait: leaks, timewait and ports ask it, so that they know\n" +
			"in the first minute what else they would have to wait for. Metrics at /metrics, and /healthz and\n" +
			"/readyz. TLS and passwords: --web.config.file, as the exporters of Prometheus have it.",
		Example: "  afterfin serve\n  afterfin serve --web.listen-address :9736 --web.config.file web.yml\n  afterfin serve --check",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			var err error
			if o.leaks.ignore, err = readIgnore(rulesFile, rules); err != nil {
				return err
			}
			if o.every < time.Second {
				return usage("--look-every: %v is shorter than a second", o.every)
			}
			if o.leaks.olderThan < 0 {
				return usage("--older-than: %v is negative", o.leaks.olderThan)
			}
			if o.export.Top < 0 || o.export.Top > maxTop {
				return usage("--ports.top: %d is not a number from 0 to %d", o.export.Top, maxTop)
			}
			if o.otlp.Endpoint != "" {
				if _, err := otlp.Parse(o.otlp.Endpoint); err != nil {
					return usage("--otlp.endpoint: %w", err)
				}
			}
			if o.otlp.Every < time.Second {
				return usage("--otlp.interval: %v is shorter than a second", o.otlp.Every)
			}
			if err := web.Validate(o.webConfig); err != nil {
				return usage("--web.config.file: %w", err)
			}
			if o.leaks.feed, err = filter.parse(); err != nil {
				return err
			}
			o.leaks.state = tcp.CloseWait
			return serve(e, &o)
		},
	}
	flags := cmd.Flags()
	filter.registerNetNS(flags)
	flags.StringArrayVar(&o.addresses, "web.listen-address", []string{"127.0.0.1:9736"}, "where metrics are told; may be given again")
	flags.StringVar(&o.webConfig, "web.config.file", "", "TLS and authentication, in the format of Prometheus' exporter-toolkit")
	flags.StringVar(&o.socket, "recorder", recorder.Socket, "Unix socket of the flight recorder, for root alone; empty: none")
	flags.DurationVar(&o.every, "look-every", 15*time.Second, "time between two looks at the sockets")
	flags.DurationVar(&o.leaks.olderThan, "older-than", 10*time.Second, "what counts as leaked: only sockets that may be as old as this")
	flags.StringArrayVar(&rules, "ignore", nil, "leave out of leaked_sockets what is known, as leaks --ignore")
	flags.StringVar(&rulesFile, "ignore-file", "", "read such rules from this file (default "+ignoreFile+", if it is there)")
	flags.IntVar(&o.export.Top, "ports.top", 10, "tell the ports of so many destinations, the fullest first")
	flags.BoolVar(&o.export.Destinations, "ports.destinations", false, "tell which they are, by labels: each that was ever among them makes five series")
	flags.StringVar(&o.otlp.Endpoint, "otlp.endpoint", e.getenv("OTEL_EXPORTER_OTLP_ENDPOINT"), "push metrics, and a log record for each leak found, forecast and overflow, to the OpenTelemetry collector at this URL, as http://127.0.0.1:4318 (default $OTEL_EXPORTER_OTLP_ENDPOINT)")
	flags.DurationVar(&o.otlp.Every, "otlp.interval", 30*time.Second, "time between two pushes of metrics")
	flags.BoolVar(&o.check, "check", false, "check the configuration, attach, look once, and end")
	return cmd
}

// maxTop keeps a mistake from making a series of every destination.
const maxTop = 1000

func serve(e env, o *serveOptions) error {
	listeners, err := o.listen()
	if err != nil {
		return err
	}
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	s, err := newService(e, o)
	if err != nil {
		return err
	}
	defer s.close()
	registry, err := s.registry()
	if err != nil {
		return err
	}
	if o.check {
		fmt.Fprintln(e.stdout, "ok: the configuration holds, everything attaches, and the sockets can be looked at")
		return nil
	}
	ctx, stop := context.WithCancelCause(e.ctx)
	defer stop(nil)
	if o.socket != "" {
		end, err := recorder.Listen(o.socket, s.recorded(ctx), stop)
		if err != nil {
			return &failure{code: exitRuntime, err: err}
		}
		defer end()
	}
	end := s.tell(listeners, registry, stop)
	defer end()
	if e.giveUp != nil {
		if err := e.giveUp(); err != nil {
			return &failure{code: exitRuntime, err: err}
		}
	}
	for _, l := range listeners {
		fmt.Fprintf(e.stderr, "metrics at %v\n", l.Addr())
	}
	for _, line := range append(hookNotices(s.feed.Start()), readyLines(s.feed.Start())...) {
		fmt.Fprintln(e.stderr, line)
	}
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady) // nobody may listen
	if err := s.record(ctx); err != nil {
		return &failure{code: exitRuntime, err: err}
	}
	return nil
}

// listen opens where metrics are told; with --check nothing: another serve may run.
func (o *serveOptions) listen() ([]net.Listener, error) {
	var listeners []net.Listener
	for _, address := range o.addresses {
		if o.check {
			if _, err := net.ResolveTCPAddr("tcp", address); err != nil {
				return nil, usage("--web.listen-address: %w", err)
			}
			continue
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			return nil, &failure{code: exitRuntime, err: fmt.Errorf("--web.listen-address: %w", err)}
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// kept are the capabilities that serve goes on with: the rest it has for its start alone. README says which is for what.
var kept = []cap.Value{cap.BPF, cap.SYS_ADMIN, cap.SYS_PTRACE, cap.DAC_READ_SEARCH}

// registry has all that is told; what is pushed begins to be.
func (s *service) registry() (*prometheus.Registry, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(export.NewCollector(s.snapshot, s.options.export),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if s.options.otlp.Endpoint == "" || s.options.check {
		return registry, nil
	}
	cfg := s.options.otlp
	cfg.Version = version
	var err error
	if s.pushed, err = otlp.New(s.env.ctx, cfg, registry); err != nil {
		return nil, &failure{code: exitRuntime, err: err}
	}
	s.pushed.Tell(s.findings.Take(s.looked)) // of the first look, which was before this
	registry.MustRegister(
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "afterfin_otlp_dropped_records_total", Help: "Log records that the collector refused, or that there was no room or no time for."},
			func() float64 { return float64(s.pushed.Dropped()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "afterfin_otlp_failed_pushes_total", Help: "Pushes of metrics that failed; the next one says it all."},
			func() float64 { return float64(s.pushed.Failed()) }))
	return registry, nil
}

// tell serves metrics until end is called. What goes wrong stops all.
func (s *service) tell(listeners []net.Listener, registry *prometheus.Registry, stop context.CancelCauseFunc) (end func()) {
	if len(listeners) == 0 {
		return func() {}
	}
	log := slog.New(slog.NewTextHandler(s.env.stderr, nil))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError), MaxRequestsInFlight: 4, Timeout: 10 * time.Second,
	}))
	mux.HandleFunc("GET /healthz", answer(s.health))
	mux.HandleFunc("GET /readyz", answer(s.ready))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "afterfin: /metrics, /healthz, /readyz")
	})
	at := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	noSocket := false
	flags := &web.FlagConfig{WebListenAddresses: &s.options.addresses, WebSystemdSocket: &noSocket, WebConfigFile: &s.options.webConfig}
	go func() {
		if err := web.ServeMultiple(listeners, at, flags, log); !errors.Is(err, http.ErrServerClosed) {
			stop(fmt.Errorf("tell metrics: %w", err))
		}
	}()
	return func() { at.Close() }
}

// answer is 200, or 503 and why not.
func answer(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := check(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}

// feedOf is what serve follows: counts of all, rows of CLOSE_WAIT alone.
func (o *serveOptions) feedOf(types *tracer.Types) feed.Config {
	cfg := o.leaks.feed
	cfg.Filter.DiedOpen, cfg.Counts, cfg.Ports, cfg.Types = true, true, true, types
	cfg.Rows.Add(tcp.CloseWait)
	cfg.Sites.Add(tcp.CloseWait)
	return cfg
}
