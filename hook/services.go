// Decides which services of the host a container may use. The settings say which services there
// are, and the annotations say which of them the container asks for. A service is a unix socket of
// the host, or a TCP address that the host reaches. In the container's own network, terok-gate
// forward connects the container to the service.

package hook

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"terok-gate-hook/internal/control"
	"terok-gate-hook/store"
)

// errNoService is wrapped by a refusal because of [Settings.AllowServices].
var errNoService = errors.New("the project may not use")

// mostServices is the largest number of services.
const mostServices = 16

// Service is a service of the host.
type Service struct {
	Name    string
	Port    uint16 // where containers find it, on their loopback
	Network string // "tcp" or "unix"
	Address string // of the service, as the host reaches it: IP:port, or a path
}

// ParseService reads a service as --service takes it: NAME=[PORT:]ADDRESS.
func ParseService(given string) (s Service, err error) {
	name, address, _ := strings.Cut(given, "=")
	if !isServiceName(name) {
		return s, errors.New("is not of the form NAME=IP:PORT, with a name of lower-case letters, digits and dashes, a letter first, at most 32")
	}
	s.Name = name

	first, rest, _ := strings.Cut(address, ":")
	port, portErr := strconv.ParseUint(first, 10, 16)
	if portErr == nil {
		address = rest
	}

	if socket, isUnix := strings.CutPrefix(address, "unix:"); isUnix {
		switch {
		case portErr != nil:
			return s, errors.New("does not say at which port containers find it: NAME=PORT:unix:PATH")
		case !filepath.IsAbs(socket) || len(socket) > control.PathLimit:
			return s, fmt.Errorf("needs an absolute path after unix:, of at most %d bytes", control.PathLimit)
		}
		s.Network, s.Address = "unix", socket
	} else {
		at, err := netip.ParseAddrPort(address)
		if err != nil || at.Port() == 0 || at.Addr().Zone() != "" || at.Addr().IsUnspecified() {
			return s, errors.New("is not of the form NAME=[PORT:]IP:PORT or NAME=PORT:unix:PATH; a host name is refused, since the firewall of terok-gate forward needs an address")
		}
		if portErr != nil {
			port = uint64(at.Port())
		}
		s.Network, s.Address = "tcp", at.String()
	}

	if port == 0 {
		return s, errors.New("has port 0 in containers: use a port from 1 to 65535")
	}
	s.Port = uint16(port)
	return s, nil
}

// isServiceName reports whether a service may have the name. It accepts no two names that have the same
// variable in serviceVariables.
func isServiceName(name string) bool {
	for i := range len(name) {
		c := name[i]
		letter, other := c >= 'a' && c <= 'z', c >= '0' && c <= '9' || c == '-'
		if !letter && (i == 0 || !other) {
			return false
		}
	}
	return 0 < len(name) && len(name) <= 32
}

// listen returns the service's address in a container: the gate's host with the service's port.
func (s Settings) listen(service Service) string {
	host, _, _ := strings.Cut(s.gateListen(), ":")
	return host + ":" + strconv.Itoa(int(service.Port))
}

// serviceVariables returns variables with the addresses of the services that a container may use.
func (s Settings) serviceVariables(services []Service) (variables []variable) {
	for _, service := range services {
		name := "TEROK_SERVICE_" + strings.ToUpper(strings.ReplaceAll(service.Name, "-", "_"))
		variables = append(variables, variable{name, "http://" + s.listen(service)})
	}
	return variables
}

// listening returns the services' addresses in the container, by name, as the token file has
// them. It returns nil if there are no services.
func (s Settings) listening(services []Service) (at map[string]string) {
	for _, service := range services {
		if at == nil {
			at = map[string]string{}
		}
		at[service.Name] = s.listen(service)
	}
	return at
}

// services returns the services that the annotations ask for.
func (s Settings) services(annotations map[string]string, project string) (services []Service, err error) {
	asked, ok := annotations[ServicesAnnotation]
	if !ok {
		return nil, nil
	}
	for name := range strings.FieldsFuncSeq(asked, isBetweenNames) {
		service, err := s.service(name, project)
		if err == nil && slices.Contains(services, service) {
			err = instead("names a service twice", fmt.Errorf("service %.64q is named twice", name))
		}
		if err != nil {
			return nil, because("annotation "+ServicesAnnotation, err)
		}
		services = append(services, service)
	}
	return services, nil
}

// service returns the service of this name, if containers of the project may use it.
func (s Settings) service(name, project string) (Service, error) {
	for _, given := range s.Services {
		service, err := ParseService(given)
		if err != nil || service.Name != name {
			continue
		}
		if !s.admitsService(name, project) {
			return service, instead(text(errNoService.Error())+" a service that the container asks for", fmt.Errorf("%w service %q", errNoService, name))
		}
		return service, nil
	}
	return Service{}, instead("the container asks for a service that no --service of this host describes", fmt.Errorf("service %.64q: no --service of this host describes it", name))
}

// admitsService reports whether AllowServices admits the service for the project.
func (s Settings) admitsService(name, project string) bool {
	return slices.ContainsFunc(s.AllowServices, func(given string) bool {
		pattern, names, _ := strings.Cut(given, "=")
		matches, _ := path.Match(pattern, project)
		return matches && slices.Contains(strings.Split(names, ","), name)
	})
}

// checkServices checks the settings about services.
func (s Settings) checkServices() error {
	if len(s.Services) == 0 && len(s.AllowServices) == 0 {
		return nil // most starts have none
	}

	ports := map[uint16]string{}
	if at, err := netip.ParseAddrPort(s.gateListen()); err == nil {
		ports[at.Port()] = "the gate"
	}

	known := map[string]bool{}
	for _, given := range s.Services {
		service, err := ParseService(given)
		switch taken := ports[service.Port]; {
		case err != nil:
		case s.GateSocket == "":
			err = errors.New("needs a gate socket: add --gate-socket")
		case known[service.Name]:
			err = errors.New("has the name of another --service")
		case len(known) == mostServices:
			err = fmt.Errorf("is one too many: at most %d", mostServices)
		case taken != "":
			err = fmt.Errorf("has the port of %s in containers: choose another one with %s=PORT:ADDRESS", taken, service.Name)
		}
		if err != nil {
			return &SettingError{"service", given, err}
		}
		known[service.Name], ports[service.Port] = true, "service "+service.Name
	}

	for _, given := range s.AllowServices {
		if err := checkAllowService(given, known); err != nil {
			return &SettingError{"allow-service", given, err}
		}
	}
	return nil
}

func checkAllowService(given string, known map[string]bool) error {
	pattern, names, _ := strings.Cut(given, "=")
	if pattern == "" || names == "" {
		return errors.New("is not of the form PATTERN=NAME[,NAME]")
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return err
	}
	for name := range strings.SplitSeq(names, ",") {
		if !known[name] {
			return fmt.Errorf("names the service %.64q, which no --service describes", name)
		}
	}
	return nil
}

// attachServices makes terok-gate forward serve the services of an entry in the container's
// network. With retry, it tries again as hand does.
func (s Settings) attachServices(entry store.Entry, process *store.Pinned, retry bool) error {
	socket := control.ForwardSocket(s.GateSocket)
	deadline := time.Now().Add(s.gateTimeout())
	for _, name := range slices.Sorted(maps.Keys(entry.Gate.Services)) {
		request := s.handing(entry)
		request.Service, request.Listen = name, entry.Gate.Services[name]
		if _, err := s.hand(socket, deadline, process, request, retry); err != nil {
			return because("ask terok-gate forward at "+text(socket)+" to serve "+text(name)+" in the container's network", ofForward(err))
		}
	}
	return nil
}

// ofForward turns an error of terok-gate forward into an error that may be printed.
func ofForward(err error) error {
	var refusal control.Refusal
	switch {
	case errors.Is(err, control.Taken):
		return known(fmt.Errorf("%w: %w", ErrServiceTaken, err))
	case errors.Is(err, control.NoService):
		return known(fmt.Errorf("%w: %w", ErrUnknownService, err))
	case errors.Is(err, ErrNoGate) && !errors.As(err, &refusal):
		return instead(text(ErrNoForward.Error())+": "+reason(err), fmt.Errorf("%w: %w", ErrNoForward, err))
	}
	return forHook(err)
}
