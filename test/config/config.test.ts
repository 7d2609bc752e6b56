import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type Config, ConfigError, type Loaded, loadConfig, reloadable } from '../../src/config/index.ts'
import { aliases } from '../../src/config/aliases.ts'
import { keys, settings } from '../../src/config/settings.ts'

let dir: string
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'vmspool-config-'))
})
afterEach(() => rmSync(dir, { recursive: true, force: true }))

interface Given {
  env?: Record<string, string>
  file?: string
  name?: string
  root?: string
  uid?: number
  instance?: string
}

function load(g: Given = {}): Loaded {
  const configFile = g.file === undefined ? undefined : join(dir, g.name ?? 'x.yaml')
  if (configFile !== undefined) writeFileSync(configFile, g.file!)
  return loadConfig({
    instance: g.instance ?? 'vsphere',
    root: g.root,
    configFile,
    uid: g.uid ?? 0,
    env: { VMSPOOL_CONFIG_DIR: dir, ...g.env },
  })
}

function errors(g: Given): string[] {
  try {
    load(g)
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    expect(error.exitCode).toBe(78)
    return error.diagnostics.filter((d) => d.severity === 'error').map((d) => d.message)
  }
  throw new Error('The configuration was accepted.')
}

const settingOf = (config: Config, key: string) =>
  key.split('.').reduce<unknown>((v, step) => (v as Record<string, unknown> | undefined)?.[step], config)

describe('defaults', () => {
  test('every key with a default has it, and says so', () => {
    const { config, origin, files, warnings } = load()
    expect(config).toMatchObject({
      instance: 'vsphere',
      root: '/var/lib/vmspool',
      runtime_dir: '/run/vmspool/vsphere',
      lease: { timeout: 30_000 },
      retry: { enabled: true, max_attempts: 3, delay: 300_000, factor: 2 },
      max_crashes: 10,
      intake: {
        poll_ms: 1000,
        bare_disks: 'on',
        file_stable_timeout: 30_000,
        yaml_quiet: 1000,
        incomplete_after: 5000,
        max_manifest_bytes: 1 << 20,
      },
      convert: { max_virtual_size: 64 * 2 ** 40, compress: 'auto' },
      retention: { done: 7 * 86_400_000, failed: 3 * 86_400_000 },
      on_in_use: 'reject',
      poll_name: 'on',
    })
    expect(config.concurrency.weight).toBeGreaterThanOrEqual(2)
    for (const key of keys) {
      expect([key, origin[key]]).toEqual([key, 'default'])
      if (settings[key].standard !== undefined) expect([key, settingOf(config, key)]).not.toEqual([key, undefined])
    }
    expect(files).toEqual([])
    expect(warnings).toEqual([])
  })

  test('for a user everything lies in their own folders', () => {
    const env = { HOME: '/home/u', XDG_DATA_HOME: '/data', XDG_RUNTIME_DIR: '/run/user/7' }
    const { config } = load({ uid: 7, env, instance: 'no-such-instance-of-the-host' })
    expect(config.root).toBe('/data/vmspool')
    expect(config.runtime_dir).toBe('/run/user/7/vmspool/no-such-instance-of-the-host')
    expect(load({ uid: 7, env: { HOME: '/home/u' }, instance: 'nsi' }).config.root).toBe('/home/u/.local/share/vmspool')
  })

  test('a user has configuration files of their own, after those of the host', () => {
    writeFileSync(join(dir, 'agent.yaml'), 'log: {level: debug}\n')
    const env = { HOME: dir, XDG_CONFIG_HOME: dir, XDG_DATA_HOME: dir }
    const { files } = loadConfig({ instance: 'a', uid: 7, env })
    expect(files.filter((f) => f.startsWith(dir))).toEqual([]) // it is looked for in vmspool/ below
  })

  test('instances of one name under two roots do not share their sockets', () => {
    const one = load({ root: '/srv/a' }).config.runtime_dir
    expect(one).toMatch(/^\/run\/vmspool\/vsphere-[0-9a-f]{8}$/)
    expect(load({ root: '/srv/b' }).config.runtime_dir).not.toBe(one)
    expect(load({ env: { RUNTIME_DIRECTORY: '/run/vmspool/x' } }).config.runtime_dir).toBe('/run/vmspool/x')
    expect(load({ root: '/srv/b', env: { VMSPOOL_RUNTIME_DIR: '/short' } }).config.runtime_dir).toBe('/short')
  })
})

describe('order and origin', () => {
  test('defaults < agent.yaml < agent@NAME.yaml < --config < environment < options', () => {
    writeFileSync(
      join(dir, 'agent.yaml'),
      'log:\n  level: debug\nlease: {timeout: 1s}\nmax_crashes: 1\nroot: /one\nspace:\n  reserve_bytes: 1G\n',
    )
    writeFileSync(join(dir, 'agent@vsphere.yaml'), 'lease:\n  timeout: 2s\nmax_crashes: 2\nroot: /two\n')
    writeFileSync(join(dir, 'agent@other.yaml'), 'max_crashes: 9\n')
    const { config, origin, files } = load({
      file: '\nmax_crashes: 3\nroot: /three\n',
      env: { VMSPOOL_MAX_CRASHES: '4', VMSPOOL_ROOT: '/four' },
      root: '/five',
    })
    expect(config).toMatchObject({
      log: { level: 'debug' },
      lease: { timeout: 2000 },
      max_crashes: 4,
      root: '/five',
      space: { reserve_bytes: 2 ** 30 },
    })
    expect(origin).toMatchObject({
      'log.level': `${dir}/agent.yaml:2`,
      'lease.timeout': `${dir}/agent@vsphere.yaml:2`,
      'space.reserve_bytes': `${dir}/agent.yaml:7`,
      max_crashes: 'env VMSPOOL_MAX_CRASHES',
      root: 'flag --root',
      'retry.delay': 'default',
    })
    expect(files).toEqual([join(dir, 'agent.yaml'), join(dir, 'agent@vsphere.yaml'), join(dir, 'x.yaml')])
  })

  test('every key can be set by its variable', () => {
    const samples: Record<string, string> = {
      root: '/x',
      queue: '/x',
      output: '/x',
      runtime_dir: '/x',
      'log.level': 'warning',
      'intake.bare_disks': 'off',
      'intake.import_roots': '/a:/b',
      'convert.format': 'raw',
      'convert.compress': 'yes',
      'convert.compression_type': 'zlib',
      'convert.path': 'inflate',
      'convert.grains': 'structure',
      'convert.compare': 'sample',
      on_in_use: 'supersede',
      poll_name: 'false',
      'metrics.listen': '127.0.0.1:9464',
      path_map: '/a=/b',
      'concurrency.groups': 'backup=2',
      'history.path': '/h.db',
      'logs.max_bytes': '1M',
      'logs.total_bytes': '1M',
      'libvirt.networks': 'VM Network=bridge:br0',
      'fix.fstab_mode': 'noop',
      'fix.unavailable': 'fail',
      'fix.accelerator': 'tcg',
      'fix.kernel': '/x',
      'fix.modules': '/x',
      'fix.appliance': '/x',
      'fix.virt_v2v_in_place': '/x',
      'fix.tmp_dir': '/x',
      'notifications.webhook_type': 'slack',
      'notifications.webhook_url': 'https://h/x',
      'host.labels': 'gpu, fast',
      'vm.dir': '/v',
      'vm.accelerator': 'qemu',
      'vm.limits.min_memory': '8M',
      'vm.limits.memory': '8G',
      'vm.limits.min_disk': '8M',
      'vm.limits.disk': '8G',
      'images.dir': '/i',
      templates: '{"t": {"path": "/t.qcow2"}}',
    }
    for (const key of keys) {
      const name = `VMSPOOL_${key.replaceAll('.', '_').toUpperCase()}`
      const { standard } = settings[key]
      const value =
        samples[key] ??
        (typeof standard === 'boolean'
          ? String(!standard)
          : typeof standard === 'string' && !/^\d|auto/.test(standard)
            ? 'text'
            : key.startsWith('notifications.') && standard === undefined
              ? 'text'
              : '7')
      const env = {
        [name]:
          key === 'intake.max_manifest_bytes'
            ? '64K'
            : key === 'intake.poll_ms'
              ? '50'
              : key === 'convert.max_virtual_size'
                ? '1T'
                : value,
      }
      const { config, origin } = load({ env })
      expect([key, origin[key]]).toEqual([key, `env ${name}`])
      expect([key, settingOf(config, key)]).not.toEqual([key, settingOf(load().config, key)])
    }
  })

  test.each([
    ['empty', ''],
    ['only comments', '# nothing\n\n   # here\n'],
    ['keys without values', 'log:\nlease:\n  timeout:\n'],
  ])('a file that says nothing changes nothing: %s', (_name, file) => {
    expect(load({ file }).config).toEqual(load().config)
  })

  test('variables of jobs and tests are no settings', () => {
    expect(() =>
      load({
        env: { VMSPOOL_JOB: 'x', VMSPOOL_TEST_RUN: '1', VMSPOOL_INSTANCE: 'a', VMSPOOL_DEBUG: '1', VMSPOOLX: '1' },
      }),
    ).not.toThrow()
  })
})

describe('errors', () => {
  test.each([
    ['lease: {timeuot: 5s}', 'There is no setting "lease.timeuot". Did you mean "lease.timeout"?'],
    ['levle: info', 'There is no setting "levle". Did you mean "log.level"?'],
    ['max_crash: 5', 'There is no setting "max_crash". Did you mean "max_crashes"?'],
    ['maxCrashes: 5', 'There is no setting "maxCrashes". Did you mean "max_crashes"?'],
    [
      'convert: {file_stable_timeout: 5}',
      'There is no setting "convert.file_stable_timeout". Did you mean "intake.file_stable_timeout"?',
    ],
    ['WATCH_DRI: /x', 'There is no setting "WATCH_DRI". Did you mean "WATCH_DIR"?'],
    ['frobnicate: 1', 'There is no setting "frobnicate".'],
    ['log: 5', 'log is 5; it must be a mapping with level.'],
    ['log: {level: inof}', 'log.level is "inof"; it must be one of debug, info, warn, error. Did you mean "info"?'],
    ['lease: {timeout: 1}', ''],
    [
      'lease: {timeout: 5x}',
      'lease.timeout is "5x"; it must be a number of seconds or text such as "90s", "5m", "2h" or "1h30m".',
    ],
    ['lease: {timeout: 1ms}', 'lease.timeout is "1ms"; it must be a duration from 100ms to 1h.'],
    ['lease: {timeout: -1}', 'lease.timeout is -1; it must be a number of seconds'],
    ['queue: here', 'queue is "here"; it must be an absolute path.'],
    ['max_crashes: many', 'max_crashes is "many"; it must be a whole number from 0 to 10000.'],
    [
      'concurrency: {weight: atuo}',
      'concurrency.weight is "atuo"; it must be a whole number from 1 to 10000, or "auto". Did you mean "auto"?',
    ],
    ['convert: {max_virtual_size: 1X}', 'convert.max_virtual_size is "1X"; it must be a number of bytes'],
    ['intake: {import_roots: [a]}', 'intake.import_roots is a list; it must be a list of absolute paths.'],
    ['path_map: [a]', 'path_map is a list; it must map'],
    ['metrics: {listen: 9464}', 'metrics.listen is 9464; it must be an address'],
    ['log: {level: info}\nlog: {level: warn}', 'The key "log" stands twice'],
    ['a: [1', 'The YAML cannot be read'],
    ['- a', 'must be a mapping'],
    ['__proto__: {a: 1}', '"__proto__" is refused'],
    ['QEMU_CONVERT_OPTIONS: "-O qcow2 -f raw"', 'contains "-f"'],
  ])('%j', (file, message) => {
    if (message === '') return expect(load({ file }).config.lease.timeout).toBe(1000)
    expect(errors({ file })[0]).toContain(message)
  })

  test('all errors at once, each with file, line and column', () => {
    try {
      load({ file: 'log:\n  levle: info\nlease:\n  timeout: soon\n', env: { VMSPOOL_LOG_LEVLE: 'x' } })
      expect.unreachable()
    } catch (error) {
      const { diagnostics, message } = error as ConfigError
      expect(diagnostics.map((d) => [d.file, d.line, d.column])).toEqual([
        [join(dir, 'x.yaml'), 2, 3],
        [join(dir, 'x.yaml'), 4, 3],
        ['environment', undefined, undefined],
      ])
      expect(message).toContain('3 errors')
      expect(message).toContain(
        `${join(dir, 'x.yaml')}:2:3: There is no setting "log.levle". Did you mean "log.level"?`,
      )
      expect(message).toContain('VMSPOOL_LOG_LEVLE names no setting. Did you mean VMSPOOL_LOG_LEVEL?')
    }
  })

  test('a file that was asked for must exist; those of the host need not', () => {
    expect(() =>
      loadConfig({ instance: 'a', configFile: join(dir, 'no.yaml'), uid: 0, env: { VMSPOOL_CONFIG_DIR: dir } }),
    ).toThrow(/does not exist/)
  })

  test.each(['', '.', '../x', 'a/b', 'a b', '-x', 'x'.repeat(65), 'a\nb'])('the instance %j is refused', (instance) => {
    expect(errors({ instance })[0]).toContain('instance name')
  })
})

describe('the names of the systems before', () => {
  test('the EnvironmentFile of hyper2kvm can be used as it is', () => {
    const file = `# hyper2kvm-vsphere.conf
WATCH_DIR=/var/lib/hyper2kvm/vsphere/queue
OUTPUT_DIR="/var/lib/hyper2kvm/vsphere/output"
LOG_LEVEL=warn
POLL_INTERVAL=5
MAX_CONCURRENT=4
QEMU_CONVERT_OPTIONS="-O qcow2 -c -p"
COMPRESS_LEVEL=9
CLEANUP_SOURCE=true
LIBVIRT_INTEGRATION=true
LIBVIRT_URI=qemu:///system
LIBVIRT_BRIDGE=br-vsphere
LIBVIRT_POOL=vsphere-vms
LIBVIRT_AUTOSTART=false
CONVERSION_TIMEOUT=120
TEMP_DIR=/var/cache/hyper2kvm
VERBOSE_PROGRESS=true
NOTIFY_EMAIL=
WEBHOOK_URL=
RETENTION_DAYS=14
FAILED_RETENTION_DAYS=7
`
    const { config, origin, warnings } = load({ file, name: 'hyper2kvm-vsphere.conf' })
    expect(config).toMatchObject({
      queue: '/var/lib/hyper2kvm/vsphere/queue',
      output: '/var/lib/hyper2kvm/vsphere/output',
      log: { level: 'warn' },
      intake: { poll_ms: 5000 },
      concurrency: { jobs: 4 },
      convert: { format: 'qcow2', compress: 'yes', compress_level: 9, cleanup_source: true },
      libvirt: { enabled: true, bridge: 'br-vsphere', pool: 'vsphere-vms', autostart: false },
      timeouts: { job: 7_200_000 },
      retention: { done: 14 * 86_400_000, failed: 7 * 86_400_000 },
    })
    expect(origin.queue).toBe(`${dir}/hyper2kvm-vsphere.conf:2 (WATCH_DIR)`)
    expect(origin['notifications.webhook_url']).toBe('default')
    expect(warnings.map((d) => d.path).sort()).toEqual([
      'CLEANUP_SOURCE',
      'LIBVIRT_POOL',
      'TEMP_DIR',
      'VERBOSE_PROGRESS',
    ])
  })

  test('the YAML of the Python daemon can be used as it is', () => {
    const file = `command: daemon
watch_dir: /q
output_dir: /o
max_concurrent_jobs: 3
file_stable_timeout: 45
enable_deduplication: false
archive_processed: false
retry_policy: {enabled: true, max_retries: 5, retry_delay: 60, backoff_multiplier: 1.5}
out_format: raw
compress: false
flatten: true
notifications: {enabled: true, webhook_url: "https://h/x", webhook_type: slack}
`
    const { config, origin, warnings } = load({ file })
    expect(config).toMatchObject({
      queue: '/q',
      output: '/o',
      concurrency: { jobs: 3 },
      intake: { file_stable_timeout: 45_000, archive_processed: false },
      retry: { enabled: true, max_attempts: 5, delay: 60_000, factor: 1.5 },
      convert: { format: 'raw', compress: 'no' },
      notifications: { enabled: true, webhook_type: 'slack' },
    })
    expect(origin['retry.delay']).toContain('(retry_policy.retry_delay)')
    expect(warnings.every((d) => d.path.startsWith('notifications.') && d.message.includes('later version'))).toBe(true)
  })

  test('every older key is either one of ours or says why it means nothing', () => {
    const known: ReadonlySet<string> = new Set(keys)
    for (const [name, alias] of aliases) {
      if ('key' in alias) expect([name, known.has(alias.key)]).toEqual([name, true])
      else if ('ignored' in alias) expect(alias.ignored).toMatch(/\w+ \w+/)
    }
  })

  test("Ghost Agent's agent.yaml is read as what it means here; what means nothing says why", () => {
    const file = [
      'agent: {name: host-1, api_url: "https://core.example:9000", heartbeat_interval: 30s}',
      'libvirt: {uri: "qemu:///session", storage_pool: fast, network: lan, image_cache: /srv/images}',
      'resources: {reserved_cpu: 2, reserved_ram_gb: 4, reserved_disk_gb: 0.5}',
      'grpc: {listen_addr: "0.0.0.0:9090", tls_enabled: false}',
      'logging: {level: warn, output: stdout, format: json, max_size: 100}',
      'metrics: {enabled: true, listen_addr: "0.0.0.0:9091", path: /metrics}',
      'health: {listen_addr: "0.0.0.0:9092", path: /health}',
    ].join('\n')
    const { config, origin, warnings } = load({ file })
    expect(config).toMatchObject({
      libvirt: { uri: 'qemu:///session', pool: 'fast' },
      vm: { network: 'lan', reserved: { vcpus: 2, memory: 4 * 2 ** 30, disk: 2 ** 29 } },
      images: { dir: '/srv/images' },
      log: { level: 'warn' },
      metrics: { listen: '0.0.0.0:9091' },
    })
    expect(origin['vm.reserved.memory']).toMatch(/x\.yaml:3 \(resources\.reserved_ram_gb\)$/)
    const silent = warnings.filter((w) => !w.message.includes('later version'))
    expect(silent.map((w) => w.path).sort()).toEqual([
      ...['agent.api_url', 'agent.heartbeat_interval', 'agent.name', 'grpc.listen_addr', 'health.listen_addr'],
      'logging.max_size',
    ])
    expect(silent.find((w) => w.path === 'agent.name')?.message).toContain('vmspool agent NAME')
    expect(() => load({ file: 'resources: {reserved_cpus: 2}' })).toThrow('resources.reserved_cpu')
  })

  test("and its variables, which ours overrule; others of that prefix are not Ghost Agent's", () => {
    const env = {
      GHOST_LIBVIRT_URI: 'qemu:///session',
      GHOST_LIBVIRT_NETWORK: 'lan',
      GHOST_RESOURCES_RESERVED_RAM_GB: '2',
      GHOST_LOGGING_LEVEL: 'debug',
      GHOST_DATA_DIR: '/tmp/ghost',
      VMSPOOL_VM_NETWORK: 'wan',
    }
    const { config, origin, warnings } = load({ env })
    expect(config).toMatchObject({
      libvirt: { uri: 'qemu:///session' },
      vm: { network: 'wan', reserved: { memory: 2 * 2 ** 30 } },
      log: { level: 'debug' },
    })
    expect([origin['vm.reserved.memory'], origin['vm.network']]).toEqual([
      'env GHOST_RESOURCES_RESERVED_RAM_GB (resources.reserved_ram_gb)',
      'env VMSPOOL_VM_NETWORK',
    ])
    expect(warnings.filter((w) => w.message.includes('GHOST'))).toEqual([])
  })

  test('older names work as variables too', () => {
    const { config, origin } = load({ env: { VMSPOOL_WATCH_DIR: '/q', VMSPOOL_RETENTION_DAYS: '2' } })
    expect(config).toMatchObject({ queue: '/q', retention: { done: 2 * 86_400_000 } })
    expect(origin.queue).toBe('env VMSPOOL_WATCH_DIR (watch_dir)')
  })
})

describe('templates', () => {
  const conf = (name: string) => readFileSync(resolve(import.meta.dirname, '../../conf', name), 'utf8')

  test('agent.yaml as shipped changes nothing; with its comments taken away it sets every key to its default', () => {
    expect(load({ file: conf('agent.yaml') }).config).toEqual(load().config)
    const body = conf('agent.yaml').split('\n\n').slice(1).join('\n')
    const active = body.replaceAll(/^# /gm, '').replaceAll(/^\s*#.*\n/gm, '')
    const { config, origin } = load({ file: active })
    expect(config).toEqual(load().config)
    for (const key of keys)
      if (settings[key].standard !== undefined)
        expect([key, origin[key]]).toEqual([key, expect.stringContaining('x.yaml:')])
      else expect([key, active.includes(`${key.split('.').at(-1)}:`)]).toEqual([key, true])
  })

  test.each([
    [
      'agent@vsphere.yaml',
      {
        concurrency: { jobs: 4 },
        convert: { compress: 'yes', cleanup_source: false },
        retention: { done: 14 * 86_400_000 },
      },
    ],
    [
      'agent@aws.yaml',
      {
        concurrency: { jobs: 2 },
        convert: { compress_level: 9, cleanup_source: false },
        retention: { failed: 14 * 86_400_000 },
      },
    ],
    ['agent@default.yaml', {}],
    ['agent@azure.yaml', { convert: { compress: 'yes' } }],
    ['agent@gcp.yaml', { convert: { compress: 'yes' } }],
    ['agent@hyperv.yaml', { convert: { no_progress_timeout: 30 * 60_000 } }],
    ['agent@nfs.yaml', { lease: { timeout: 90_000 } }],
  ])('%s is valid, also with its comments taken away', (name, wanted) => {
    // Settings that are commented out look like "# key:"; what explains them ends as a sentence does.
    const active = conf(name)
      .replaceAll(/^#(?= {3,}(\w+:|"))/gm, '')
      .replaceAll(/^# (?=\w+:( \/\S+)?$)/gm, '')
    expect(load({ file: active }).warnings.filter((w) => !/later version/.test(w.message))).toEqual([])
    const { config, warnings } = load({ file: conf(name) })
    expect(config).toMatchObject(wanted)
    expect(warnings).toEqual([])
  })

  test('what HUP may change leaves alone what an agent holds on to', () => {
    expect(reloadable).toContain('log.level')
    for (const key of ['root', 'queue', 'output', 'runtime_dir', 'lease.timeout', 'metrics.listen'])
      expect(reloadable).not.toContain(key)
  })
})
