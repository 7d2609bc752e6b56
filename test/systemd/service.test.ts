// The units as they are, under a real systemd as PID 1 (test/support/systemd-box.ts).
import { randomUUID } from 'node:crypto'
import { existsSync } from 'node:fs'
import { chmod, chown, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { makeDisk, type TestDisk } from '../support/disks.ts'
import { artifactManifest, commandManifest } from '../support/manifests.ts'
import { noBox, systemdBox, type SystemdBox } from '../support/systemd-box.ts'
import { type TempDir, tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

const because = await noBox()
if (because !== undefined) console.warn(`\n\n  !!! The units are NOT tested under systemd here: ${because.trim()}\n\n`)

type Json = Record<string, unknown>

// Much happens in each, one after the other in one container.
describe.skipIf(because !== undefined)('under systemd', { timeout: 600_000 }, () => {
  const unit = 'agent@vsphere.service'
  let box: SystemdBox
  let temp: TempDir
  let uid = 0
  const at = (path: string) => join(box.root, path)
  const spool = (instance: string, path: string) => at(join('/var/lib/vmspool', instance, path))

  /** Drops a manifest as a user, the atomic way. */
  async function drop(instance: string, manifest: object, as = uid): Promise<void> {
    const name = randomUUID()
    const file = spool(instance, `queue/.${name}`)
    await writeFile(file, JSON.stringify(manifest))
    await chmod(file, 0o644)
    await chown(file, as, as)
    await rename(file, spool(instance, `queue/${name}.json`))
  }
  const command = (name: string, script: string, limits?: object) => ({
    ...commandManifest(name, ['/bin/sh', '-c', script]),
    command: { argv: ['/bin/sh', '-c', script], ...(limits ? { limits } : {}) },
    retry: { max_attempts: 0 },
  })

  async function json(path: string): Promise<Json | undefined> {
    try {
      return JSON.parse(await readFile(path, 'utf8'))
    } catch {
      return undefined
    }
  }
  const status = (instance: string, name: string) => json(spool(instance, `output/${name}.status.json`))
  async function state(instance: string, name: string, ...wanted: string[]): Promise<Json> {
    return until(
      `${name} is ${wanted.join(' or ')}`,
      async () => {
        const s = await status(instance, name)
        if (s?.state === 'failed' && !wanted.includes('failed')) throw new Error(`${name} failed: ${s.reason}`)
        return s && wanted.includes(String(s.state)) ? s : undefined
      },
      { every_ms: 50 },
    )
  }
  const log = (instance: string, id: unknown) => readFile(spool(instance, `output/jobs/${id}/log`), 'utf8')

  /** A drop-in, in force at the next start of the unit. */
  async function dropIn(of: string, name: string, text: string): Promise<void> {
    const dir = at(`/etc/systemd/system/${of}.d`)
    await mkdir(dir, { recursive: true })
    await writeFile(join(dir, `${name}.conf`), text)
    await box.ok('systemctl', 'daemon-reload')
  }
  async function configure(instance: string, config: object): Promise<void> {
    await writeFile(at(`/etc/vmspool/agent@${instance}.yaml`), JSON.stringify(config))
  }
  async function journal(...match: string[]): Promise<Json[]> {
    const { stdout } = await box.run('journalctl', '--no-pager', '-o', 'json', '--all', ...match)
    return stdout
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line))
  }
  const sleepers = () => box.processes(unit).filter((p) => p.argv[0] === 'sleep' && p.argv[1] === '6000')
  const copies = () =>
    box.processes(unit).filter((p) => /(^|\/)qemu-img$/.test(p.argv[0] ?? '') && p.argv[1] === 'convert')
  async function isActive(name: string): Promise<string> {
    return (await box.run('systemctl', 'is-active', name)).stdout.trim()
  }

  beforeAll(async () => {
    temp = await tempDir()
    box = await systemdBox()
    uid = Number((await box.ok('id', '-u', 'vmspool')).trim())
    await configure('vsphere', {
      timeouts: { kill_grace: 2 },
      retry: { enabled: false },
      convert: { path: 'qemu-img' },
    })
    await dropIn(unit, 'quick', '[Unit]\nStartLimitBurst=100\n[Service]\nRestartSec=100ms\n')
    await box.ok('systemctl', 'enable', '--quiet', 'agent', 'agent@vsphere', 'agent.target')
    await box.ok('systemctl', 'start', 'agent.target', 'agent', 'agent@vsphere')
  }, 300_000)
  afterAll(async () => {
    await box?.[Symbol.asyncDispose]()
    await temp?.[Symbol.asyncDispose]()
  }, 120_000)

  /** Puts a disk where the agent may read it. */
  async function given(disk: TestDisk, dir: string): Promise<TestDisk> {
    await mkdir(at(dir), { recursive: true })
    const path = join(dir, disk.path.slice(disk.path.lastIndexOf('/') + 1))
    await writeFile(at(path), await readFile(disk.path))
    await chmod(at(path), 0o644)
    return { ...disk, path }
  }
  const convert = (name: string, disks: TestDisk[]) => artifactManifest(name, disks)

  test('systemd finds nothing to say about the units', async () => {
    const r = await box.run('systemd-analyze', 'verify', '--man=no', 'agent.service', unit, 'agent.target')
    expect(r).toEqual({ code: 0, stdout: '', stderr: '' })
  })

  test('two instances work, and answer to the names that hyperexport asks for', async () => {
    const disk = await makeDisk(temp.path, 'web', { size_mib: 4 })
    const there = await given(disk, '/srv/export')
    await drop('vsphere', convert('web', [there]), 65534) // nobody
    await drop('default', command('here', 'echo hello'))
    await state('vsphere', 'web', 'succeeded')
    await state('default', 'here', 'succeeded')
    expect(existsSync(spool('vsphere', 'output/web.qcow2'))).toBe(true)
    expect(await isActive('hyper2kvm@vsphere.service')).toBe('active')
    expect(await isActive('hyper2kvm.service')).toBe('active')
    expect(await isActive('hyper2kvm@other.service')).toBe('inactive')
    expect(await isActive('agent.target')).toBe('active')
    await until('systemctl status tells it', async () =>
      /^ +Status: "0 running, 0 waiting"$/m.test(await box.ok('systemctl', 'status', '--no-pager', unit)),
    )
  })

  test('all instances note in one folder what they promise to VMs, and none takes it along', async () => {
    const promises = '/run/vmspool/vm-promises'
    await box.ok('systemd-tmpfiles', '--create', 'vmspool.conf')
    expect(await box.ok('stat', '-c', '%a %U:%G', promises)).toBe('2770 vmspool:vmspool')
    // An agent that opens its VM service removes what processes left there that are gone.
    const maker = { host: 'gone', pid: 1, start_ticks: 1, boot_id: 'earlier', pid_ns: 'other' }
    const left = join(promises, `${'1'.padStart(12, '0')}-1-1-00000000.json`)
    for (const instance of ['one', 'two']) {
      await writeFile(at(left), JSON.stringify({ maker, at: new Date(0).toISOString() }))
      await chown(at(left), uid, uid)
      await configure(instance, { libvirt: { enabled: true } })
      await box.ok('systemctl', 'start', `agent@${instance}`)
      await until(`${instance} looks there`, () => !existsSync(at(left)))
    }
    await box.ok('systemctl', 'stop', 'agent@one', 'agent@two')
    expect(await box.ok('stat', '-c', '%a %U:%G', promises)).toBe('2770 vmspool:vmspool')
    expect(await journal('VMSPOOL_EVENT=vm.promises-alone')).toEqual([])
  })

  test('the journal has levels and fields', async () => {
    await drop('vsphere', command('fails', 'exit 3'))
    const { id } = await state('vsphere', 'fails', 'failed')
    const lines = await until('the journal has it', async () => {
      const all = await journal(`VMSPOOL_JOB=${id}`)
      return all.some((l) => l.VMSPOOL_EVENT === 'job.failed') ? all : undefined
    })
    const levels = Object.fromEntries(lines.map((l) => [l.VMSPOOL_EVENT, l.PRIORITY]))
    expect(levels).toMatchObject({ 'drop.accepted': '6', 'job.failed': '4' })
    for (const l of lines)
      expect(l).toMatchObject({
        VMSPOOL_INSTANCE: 'vsphere',
        VMSPOOL_NAME: 'fails',
        SYSLOG_IDENTIFIER: 'vmspool-vsphere',
        _SYSTEMD_UNIT: unit,
      })
    expect(JSON.parse(String(lines[0]?.MESSAGE))).toMatchObject({ event: 'drop.accepted', name: 'fails' })
    expect(await journal('-p', 'warning', `VMSPOOL_JOB=${id}`)).toHaveLength(1)
  })

  test('a job sees its own spool and little else; limits are those of the unit and its drop-in', async () => {
    const main = await box.show(unit, 'MainPID')
    expect(await box.ok('cat', `/proc/${main}/status`)).toMatch(
      new RegExp(`Uid:\t${uid}\t[\\s\\S]*CapEff:\t0{16}\nCapBnd:\t0{16}\n[\\s\\S]*NoNewPrivs:\t1\nSeccomp:\t2\n`),
    )
    await Promise.all([writeFile(at('/home/someone'), ''), writeFile(at('/root/someone'), '')])
    const look = `
      try() { "$@" 2>/dev/null && echo "$* yes" || echo "$* no"; }
      try touch /var/lib/vmspool/default/queue/x; try touch /etc/x; try touch /srv/x; try touch /var/lib/vmspool/vsphere/output/x
      try test -e /home/someone; try test -e /root/someone; try touch /tmp/x; try ls /var/tmp/x; try test -e /dev/vda; try ls /run/credentials/*/agent.yaml
      try test -w /dev/kvm; try unshare --user true; try nice -n 3 true; env`
    await drop('vsphere', command('looks', look, { nice: 3, ionice: 'idle', memory: '4G', cpu_time: '1m' }))
    const { id } = await state('vsphere', 'looks', 'succeeded', 'failed')
    const said = await log('vsphere', id)
    const seen = Object.fromEntries([...said.matchAll(/ F (.+) (yes|no)$/gm)].map((m) => [m[1], m[2]]))
    expect(seen).toEqual({
      'touch /var/lib/vmspool/default/queue/x': 'no',
      'touch /etc/x': 'no',
      'touch /srv/x': 'no',
      'touch /var/lib/vmspool/vsphere/output/x': 'yes',
      'test -e /home/someone': 'no',
      'test -e /root/someone': 'no',
      'touch /tmp/x': 'yes',
      'ls /var/tmp/x': 'yes',
      'test -e /dev/vda': 'no',
      'ls /run/credentials/*/agent.yaml': 'no',
      'test -w /dev/kvm': existsSync('/dev/kvm') ? 'yes' : 'no',
      'unshare --user true': 'no',
      'nice -n 3 true': 'yes',
    })
    expect(said).not.toMatch(/NOTIFY_|JOURNAL_|CREDENTIALS_/)
    expect(existsSync(at('/tmp/x'))).toBe(false)

    await dropIn(unit, 'limits', '[Service]\nMemoryMax=700M\nTasksMax=123\nCPUQuota=150%\n')
    const group = (await box.show(unit, 'ControlGroup')).replaceAll('\\', '\\\\')
    const limit = (v1: string, v2: string) =>
      box.ok(
        'sh',
        '-c',
        `cat /sys/fs/cgroup/${v1.replace('/', `${group}/`)} 2>/dev/null || cat /sys/fs/cgroup${group}/${v2}`,
      )
    expect(await limit('memory/memory.limit_in_bytes', 'memory.max')).toBe(String(700 << 20))
    expect(await limit('pids/pids.max', 'pids.max')).toBe('123')
    expect(await limit('cpu/cpu.cfs_quota_us', 'cpu.max')).toMatch(/^150000/)
  })

  test('reload tells what is wrong and changes what is right, in the same process', async () => {
    const main = await box.show(unit, 'MainPID')
    await configure('vsphere', { lgo: { level: 'debug' } })
    expect((await box.run('systemctl', 'reload', unit)).code).toBe(1)
    const { stdout } = await box.run('journalctl', '--no-pager', '-o', 'cat', '-u', unit)
    expect(stdout).toContain('There is no setting "lgo.level". Did you mean "log.level"?')
    await configure('vsphere', {
      log: { level: 'debug' },
      timeouts: { kill_grace: 2 },
      retry: { enabled: false },
      convert: { path: 'qemu-img' },
    })
    await box.ok('systemctl', 'reload', unit)
    expect(await box.show(unit, 'SubState')).toBe('running')
    expect(await box.show(unit, 'MainPID')).toBe(main)
    const [line] = await journal('VMSPOOL_EVENT=config.reloaded')
    expect(JSON.parse(String(line?.MESSAGE))).toMatchObject({ changed: ['log.level'], need_restart: [] })
  })

  test('a restart, a kill and a stop leave a command alone, its files in /tmp too', async () => {
    await drop('vsphere', command('long', 'echo mine >/tmp/mine; sleep 6000; cat /tmp/mine'))
    await state('vsphere', 'long', 'running')
    const [before] = await until('it sleeps', () => (sleepers().length === 1 ? sleepers() : undefined))
    const adopted = async (epoch: number) => {
      await until('it is taken up', async () => {
        const s = await status('vsphere', 'long')
        return s?.state === 'running' && Number(s.epoch) >= epoch
      })
      expect(sleepers()).toEqual([before])
    }
    await box.ok('systemctl', 'restart', unit)
    await adopted(1)

    const killed = await box.show(unit, 'MainPID')
    await box.ok('kill', '-KILL', killed)
    await until('it is started again', async () => {
      const pid = await box.show(unit, 'MainPID')
      return pid !== '0' && pid !== killed && (await isActive(unit)) === 'active'
    })
    expect(await box.show(unit, 'NRestarts')).toBe('1')
    await adopted(2)

    await box.ok('systemctl', 'stop', unit)
    expect(await isActive(unit)).toBe('inactive')
    expect(await box.show(unit, 'Result')).toBe('success')
    expect(sleepers()).toEqual([before])
    await box.ok('systemctl', 'start', unit)
    await adopted(3)
    process.kill(before?.pid as number, 'SIGTERM')
    const { id } = await state('vsphere', 'long', 'succeeded', 'failed')
    expect(await log('vsphere', id)).toMatch(/ stdout F mine$/m)
  })

  test('a restart in the middle of a conversion costs the disk that was being copied, and no other', async () => {
    const disks = [1, 2, 3].map((n) => makeDisk(temp.path, `d${n}`, { size_mib: 8, dense: true, seed: `d${n}` }))
    const there = await Promise.all((await Promise.all(disks)).map((d) => given(d, '/srv/three')))
    // The third copy is frozen in its middle, so that it is certainly not finished.
    await box.ok('systemctl', 'stop', unit)
    await configure('vsphere', {
      drain: { timeout: 0.5 },
      timeouts: { kill_grace: 2 },
      retry: { enabled: false },
      convert: { path: 'qemu-img' },
    })
    await box.ok('systemctl', 'start', unit)
    await slow('disk-2')
    await drop('vsphere', convert('three', there))
    const frozen = await freeze('disk-2')
    await box.ok('systemctl', 'restart', unit)
    expect(copies().some((c) => c.pid === frozen)).toBe(false)
    const { id } = await state('vsphere', 'three', 'succeeded', 'failed')
    const said = await log('vsphere', id)
    expect([...said.matchAll(/copy (disk-\d): took over the finished copy/g)].map((m) => m[1])).toEqual([
      'disk-0',
      'disk-1',
    ])
    const result = await json(spool('vsphere', `output/three.result.json`))
    expect(result).toMatchObject({ state: 'succeeded', epoch: 1 })
  })

  test('an agent that hangs is ended and started again; what it left is ended, but for commands', async () => {
    await dropIn(unit, 'watchdog', '[Service]\nWatchdogSec=10s\n')
    await drop('vsphere', command('stays', 'sleep 6000'))
    const [disk] = await Promise.all([makeDisk(temp.path, 'one', { size_mib: 8, dense: true })])
    await box.ok('systemctl', 'restart', unit)
    await slow('disk-0')
    await drop('vsphere', convert('one', [await given(disk, '/srv/one')]))
    await state('vsphere', 'stays', 'running')
    const [before] = await until('it sleeps', () => (sleepers().length === 1 ? sleepers() : undefined))
    const frozen = await freeze('disk-0')
    const main = await box.show(unit, 'MainPID')
    await box.ok('kill', '-STOP', main)
    await until('it is another one', async () => !['0', main].includes(await box.show(unit, 'MainPID')))
    const { stdout } = await box.run('journalctl', '--no-pager', '-o', 'cat', '-u', unit)
    expect(stdout).toContain(`${unit}: Watchdog timeout (limit 10s)!`)
    expect(stdout).toContain(`${unit}: Failed with result 'watchdog'.`)
    expect(copies().some((c) => c.pid === frozen)).toBe(false)
    expect((await state('vsphere', 'one', 'succeeded', 'failed')).state).toBe('succeeded')
    await until('it is taken up', async () => (await status('vsphere', 'stays'))?.state === 'running')
    expect(sleepers()).toEqual([before])
    await dropIn(unit, 'watchdog', '')
    process.kill(before?.pid as number, 'SIGKILL')
    await state('vsphere', 'stays', 'failed')
  })

  test('a stop waits for a conversion longer than TimeoutStopSec, as long as drain.timeout allows', async () => {
    await dropIn(unit, 'stop', '[Service]\nTimeoutStopSec=10s\n')
    await configure('vsphere', { drain: { timeout: '5m' }, retry: { enabled: false }, convert: { path: 'qemu-img' } })
    await box.ok('systemctl', 'restart', unit)
    const disk = await makeDisk(temp.path, 'slow', { size_mib: 8, dense: true })
    await slow('disk-0')
    await drop('vsphere', convert('slow', [await given(disk, '/srv/slow')]))
    const frozen = await freeze('disk-0')
    const stopping = performance.now()
    const stopped = box.run('systemctl', 'stop', unit)
    await until('it drains', async () => (await isActive(unit)) === 'deactivating')
    await until('its time is over', () => performance.now() - stopping > 15_000)
    expect(await isActive(unit)).toBe('deactivating')
    expect(await box.show(unit, 'StatusText')).toMatch(/^1 running, 0 waiting; held: the agent is draining/)
    process.kill(frozen, 'SIGCONT')
    expect((await stopped).code).toBe(0)
    expect(await box.show(unit, 'Result')).toBe('success')
    expect((await status('vsphere', 'slow'))?.state).toBe('succeeded')
    await dropIn(unit, 'stop', '')
  })

  test('an export in a home is found where a drop-in opens it, and the error says how', async () => {
    await configure('vsphere', { retry: { enabled: false }, notifications: { email_from: 'a@example.org' } })
    await box.ok('systemctl', 'start', unit)
    const disk = await makeDisk(temp.path, 'home', { size_mib: 4 })
    const [home, tmp] = [await given(disk, '/home/export'), await given(disk, '/tmp/export')]
    await drop('vsphere', convert('home', [home]), 65534)
    await drop('vsphere', convert('tmp', [tmp]), 65534)
    for (const [name, where] of [
      ['home', '/home'],
      ['tmp', '/tmp'],
    ]) {
      const { id } = await state('vsphere', name as string, 'failed', 'succeeded')
      const error = await readFile(spool('vsphere', `output/${name}.error`), 'utf8')
      expect(error).toContain(`The unit ${unit} hides ${where} from the agent.`)
      expect(error).toContain(`"BindReadOnlyPaths=${where}/export"`)
      expect(await log('vsphere', id)).toContain(error.trim().split('\n')[0])
    }
    await dropIn(unit, 'exports', '[Service]\nBindReadOnlyPaths=/home/export /tmp/export\n')
    // Settings that only root may read come the same way.
    await mkdir(at('/etc/credstore'), { recursive: true })
    await writeFile(at('/etc/credstore/vmspool-vsphere.yaml'), 'notifications: {email_password: secret}', {
      mode: 0o600,
    })
    await box.ok('systemctl', 'restart', unit)
    await drop('vsphere', convert('home2', [home]), 65534)
    await drop('vsphere', convert('tmp2', [tmp]), 65534)
    await state('vsphere', 'home2', 'succeeded')
    await state('vsphere', 'tmp2', 'succeeded')
    const warned = (await journal('VMSPOOL_EVENT=config.warning')).map((l) => String(l.MESSAGE)).join('\n')
    expect(warned).toContain('notifications.email_password')
    expect(warned).not.toContain('secret')
  })

  test('drained over the control socket it ends and stays ended; a wrong configuration is not tried again', async () => {
    await box.ok('vmspool', 'daemon', 'drain', '--instance', 'vsphere')
    await until('it has ended', async () => (await isActive(unit)) === 'inactive')
    expect(await box.show(unit, 'Result')).toBe('success')
    await configure('vsphere', { lgo: {} })
    expect((await box.run('systemctl', 'start', unit)).code).toBe(1)
    expect(await isActive(unit)).toBe('failed')
    expect(await box.show(unit, 'ExecMainStatus')).toBe('78')
    expect(await box.show(unit, 'NRestarts')).toBe('0')
    expect(await box.show('agent.service', 'NRestarts')).toBe('0')
    expect(await isActive('hyper2kvm@vsphere.service')).toBe('failed')
  })

  test('a spool elsewhere needs a drop-in, and the error says which', async () => {
    await mkdir(at('/srv/spools'), { recursive: true })
    await chown(at('/srv/spools'), uid, uid)
    await configure('far', { root: '/srv/spools' })
    expect((await box.run('systemctl', 'start', 'agent@far')).code).toBe(1)
    const said = await until('the journal has it', async () => {
      const { stdout } = await box.run('journalctl', '--no-pager', '-o', 'cat', '-u', 'agent@far')
      return stdout.includes('EROFS') ? stdout : undefined
    })
    expect(said).toContain('[Service] ReadWritePaths=/srv/spools.')
    await dropIn('agent@far.service', 'spool', '[Service]\nReadWritePaths=/srv/spools\n')
    await box.ok('systemctl', 'start', 'agent@far')
    expect(existsSync(at('/srv/spools/far/queue'))).toBe(true)
    await box.ok('systemctl', 'stop', 'agent@far')
  })

  test('one that dies again and again is given up', async () => {
    await dropIn('agent.service', 'often', '[Unit]\nStartLimitBurst=2\n[Service]\nRestartSec=50ms\n')
    let last = ''
    await until('it is given up', async () => {
      if ((await isActive('agent')) === 'failed') return true
      const pid = await box.show('agent.service', 'MainPID')
      if (pid !== '0' && pid !== last) await box.run('kill', '-KILL', pid)
      last = pid
      return false
    })
    expect(await box.show('agent.service', 'Result')).toMatch(/signal|start-limit-hit/)
    expect(box.processes('agent.service')).toEqual([])
  })

  /** From now on the copy of that disk takes a quarter of a minute: long enough to be met. */
  async function slow(disk: string): Promise<void> {
    await mkdir(at('/usr/local/bin'), { recursive: true })
    const program = `#!/bin/sh
case "$1 $*" in "convert "*"${disk}"*) shift; exec /usr/bin/qemu-img convert -r 512K "$@" ;; esac
exec /usr/bin/qemu-img "$@"
`
    await writeFile(at('/usr/local/bin/qemu-img'), program, { mode: 0o755 })
  }

  /** Waits for the copy of a disk, and stops it. The next one is fast again. */
  async function freeze(disk: string): Promise<number> {
    const pid = await met(disk)
    await rm(at('/usr/local/bin/qemu-img'))
    return pid
  }
  async function met(disk: string): Promise<number> {
    return until(
      `${disk} is being copied`,
      () => {
        const found = copies().find((c) => c.argv.some((word) => word.includes(disk)))
        if (!found) return undefined
        process.kill(found.pid, 'SIGSTOP')
        return found.pid
      },
      { every_ms: 1 },
    )
  }
})
