// `vmspool vm` as a person uses it, against a real agent and a libvirtd of its own; and what it says where something is missing.
import { mkdir, readFile, readdir, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import * as vmspool from '../../src/index.ts'
import { echoDomain, writeEchoDisk } from '../support/echo-guest.ts'
import { isRoot } from '../support/libvirtd.ts'
import { type TempDir, tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'
import { openRegistry } from '../../src/vm/registry.ts'
import { type Scene, scene } from '../vm/scene.ts'
import { cli, type Ran, type RunOptions } from './run.ts'

const uuid = '6ba7b810-9dad-11d1-80b4-00c04fd430c8'

describe.runIf(isRoot)('with an agent and libvirt', () => {
  let dir: TempDir
  let s: Scene
  let disk: string
  const run = (sub: string, args: string[] = [], o: RunOptions = {}): Promise<Ran> =>
    cli(
      ['vm', sub, '--root', s.bed.dir, '--instance', s.bed.instance, '--config', join(dir.path, 'agent.yaml'), ...args],
      {
        env: s.bed.env,
        cwd: dir.path,
        ...o,
      },
    )
  const list = async (...args: string[]) =>
    JSON.parse((await run('list', ['-o', 'json', ...args])).out) as vmspool.VmView[]
  const small = ['--image-format', 'raw', '--ram', '32M', '--vcpu', '1', '--no-network', '--no-wait-address']

  beforeAll(async () => {
    dir = await tempDir()
    s = await scene(dir.path)
    disk = join(dir.path, 'echo.raw')
    writeEchoDisk(disk)
    await s.bed.start()
  })
  afterAll(async () => {
    await s?.[Symbol.asyncDispose]()
    await dir?.[Symbol.asyncDispose]()
  })

  test('create, list, status, stop, start, delete: each says what became of it, and again does no harm', async () => {
    const made = await run('create', ['web', '--image', 'echo.raw', ...small, '--metadata', 'team=a b', '--wait'])
    expect(made.code, made.err).toBe(0)
    expect(made.out).toMatch(/^VM +JOB +JOB STATE +VM STATE +ADDRESS\nweb +[0-9A-Z]{26} +succeeded +running +-\n$/)
    expect(made.err).toMatch(/^web\.vm \(\w+\): \w/m) // in which phases it was seen is chance
    const same = await run('create', [
      '--name',
      'web',
      '--image',
      disk,
      ...small,
      '--metadata',
      'team=a b',
      '--wait',
      '-q',
      '-o',
      'json',
    ])
    expect(same.code, same.err).toBe(0)
    const [row] = JSON.parse(same.out)
    expect(row).toMatchObject({ vm_name: 'web', kind: 'vm', state: 'succeeded', vm: { name: 'web', state: 'running' } })

    const [web, ...others] = await list()
    expect(others).toEqual([])
    expect(web).toMatchObject({
      name: 'web',
      owner: 'vmspool',
      host: hostname(),
      state: 'running',
      desired: 'running',
      vcpus: 1,
      memory_bytes: 32 * 2 ** 20,
      metadata: { team: 'a b' },
      drift: [],
      seen: { by: 'libvirt' },
    })
    expect((await run('list', ['-o', 'name'])).out).toBe('web\n')
    expect((await run('list')).out).toMatch(/^NAME +STATE .*\nweb +running +- +1 +32 MiB +1\.0 MiB/)
    const shown = await run('status', ['web'])
    expect(shown).toMatchObject({ code: 0, err: '' })
    expect(shown.out).toMatch(/^State: +running \(booted\) since \S+; libvirt says so now$/m)
    expect(shown.out).toMatch(/^CPU: +\d+\.\d % of one processor$/m)
    expect(shown.out).toMatch(/^team: +a b$/m)
    expect((await run('status', [web!.uuid.toUpperCase(), '-o', 'name'])).out).toBe('web\n')

    const ghost = (await run('list', ['--ghost'])).out.split('\n')
    expect(ghost[0]).toBe(`${'VM ID'.padEnd(20)} ${'Name'.padEnd(30)} ${'Status'.padEnd(15)} IP Address`)
    expect(ghost[1]).toBe('-'.repeat(80))
    expect(ghost[2]).toMatch(/^web {18}web {28}running$/)
    expect((await run('status', ['web', '--ghost'])).out).toMatch(
      /^VM ID: {6}web\nName: {7}web\nStatus: {5}running\nvCPU: {7}1\nRAM: {8}0\.03 GB\n/,
    )

    const none = await run('ip', ['web'])
    expect(none).toMatchObject({ code: 1, out: '', err: expect.stringContaining('no address of it is known (yet)') })
    expect(await run('ip', ['web', '--wait', '--timeout', '600ms'])).toMatchObject({ code: 124, out: '' })

    expect((await run('stop', ['web', '--force', '--wait', '-q'])).code).toBe(0)
    expect((await list())[0]).toMatchObject({ state: 'stopped', desired: 'stopped' })
    expect(await run('ip', ['web', '--wait'])).toMatchObject({
      code: 1,
      err: expect.stringContaining('is stopped and has no address'),
    })
    expect((await run('stop', ['web', '--wait', '-q'])).code).toBe(0)
    const again = await run('start', ['web', '--no-wait-address', '--wait', '--ghost', '-q'])
    expect(again.out, again.err).toContain('Status:     running')
    const restarted = await run('restart', ['web', '--force', '--no-wait-address', '--wait', '-q'])
    expect(restarted.code, restarted.err).toBe(0)

    // not a terminal: nobody is asked
    const gone = await run('delete', ['web', '--force', '--wait', '-q'])
    expect(gone.code, gone.err).toBe(0)
    expect(gone.out).toMatch(/web +\w+ +succeeded +- +-/)
    expect(await list()).toEqual([])
    expect(await s.traces('web')).toMatchObject({ domains: [], guests: 0, files: [], entry: false })
    const unknown = await run('delete', ['web'])
    expect(unknown).toMatchObject({ code: 2, out: '', err: expect.stringContaining('There is no VM "web"') })
  }, 600_000)

  test('what is not ours is shown marked, and nothing acts on it; a wrong name gets the right one', async () => {
    await s.libvirtd.inside(['tee', join(s.libvirtd.dir, 'foreign.xml')], {
      input: echoDomain('foreign', disk, { uuid }),
    })
    await s.libvirtd.virsh(s.uri, 'define', join(s.libvirtd.dir, 'foreign.xml'))
    expect(await list()).toEqual([])
    expect(await list('--all')).toMatchObject([
      { name: 'foreign', uuid, owner: 'foreign', state: 'stopped', vcpus: 1, memory_bytes: 16 * 2 ** 20 },
    ])
    for (const sub of ['start', 'delete', 'status'])
      expect(await run(sub, ['foreign']), sub).toMatchObject({
        code: 2,
        out: '',
        err: expect.stringContaining('which never touches it'),
      })
    expect(await readdir(s.bed.layout.queue)).toEqual([])

    expect((await run('create', ['mail', '--image', disk, ...small, '--no-start', '--wait', '-q'])).code).toBe(0)
    expect((await run('start', ['mial'])).err).toContain('did you mean "mail"?')
    expect((await run('start', ['mail', 'web'])).code).toBe(2)
    // none of them, when one is wrong
    expect((await list())[0]).toMatchObject({ state: 'stopped' })
    await s.libvirtd.virsh(s.uri, 'undefine', 'foreign')
  }, 600_000)

  test('libvirt is away: the registry is shown, and how old it is; --no-live does not ask', async () => {
    await s.libvirtd.signal('KILL')
    try {
      const r = await run('list')
      expect(r.code).toBe(0)
      expect(r.out).toMatch(/^mail +stopped/m)
      expect(r.err).toMatch(
        /^These states are (from the registry|what the agent saw), up to .* old\. libvirt \(qemu:.*\) could not be asked: /,
      )
      expect((await run('list', ['--no-live'])).err).not.toContain('could not be asked')
      expect((await run('status', ['mail'])).out).toMatch(/^Not asked: +libvirt \(/m)
    } finally {
      await s.libvirtd.start()
    }
  }, 600_000)

  test('the library does the same', async () => {
    const place = { root: s.bed.dir, instance: s.bed.instance, config: join(dir.path, 'agent.yaml') }
    const vm = { image: disk, image_format: 'raw', memory: '32M', networks: [], start: false }
    const job = await vmspool.vm('create', 'lib', { vm }, place)
    expect(await vmspool.wait(job, place)).toMatchObject({ state: 'succeeded', kind: 'vm' })
    expect((await vmspool.vms(place)).map((v) => v.name)).toEqual(['lib', 'mail'])
    await expect(vmspool.vm('start', 'lob', {}, place)).rejects.toMatchObject({ exitCode: 2 })
    expect(await vmspool.wait(await vmspool.vm('delete', 'lib', {}, place), place)).toMatchObject({
      state: 'succeeded',
    })
    expect((await vmspool.vms({ ...place, live: false })).map((v) => v.name)).toEqual(['mail'])
  }, 600_000)

  test('doctor says what VMs have and lack', async () => {
    const doctor = async () => {
      const r = await cli(
        [
          'doctor',
          '--root',
          s.bed.dir,
          '--instance',
          s.bed.instance,
          '--config',
          join(dir.path, 'agent.yaml'),
          '-o',
          'json',
        ],
        { env: s.bed.env },
      )
      return new Map((JSON.parse(r.out) as { check: string; state: string; detail: string }[]).map((f) => [f.check, f]))
    }
    const found = await doctor()
    expect(found.get('libvirt')).toMatchObject({
      state: 'ok',
      detail: expect.stringMatching(/lets this user in: libvirt \d/),
    })
    expect(found.get('vm accelerator')).toMatchObject({
      state: 'note',
      detail: expect.stringContaining('emulation is asked for'),
    })
    expect(found.get('vm network')).toMatchObject({
      state: 'warn',
      detail: expect.stringContaining('no network "default"'),
    })
    expect(found.get('vm folder')).toMatchObject({ state: 'ok', detail: expect.stringContaining('are linked into it') })
    expect(found.get('vm registry')).toMatchObject({ state: 'ok', detail: expect.stringMatching(/^1 VMs in /) })
    expect((await readdir(join(s.bed.layout.output, 'vms'))).filter((f) => f.includes('doctor'))).toEqual([])
  }, 600_000)

  test('gc lists what is left over and removes it on request, after the agent saw it twice', async () => {
    const left = join(s.bed.layout.vms, 'left')
    await mkdir(left)
    await writeFile(join(left, 'disk.qcow2'), 'x')
    const lost = await run('create', ['lost', '--image', disk, ...small, '--wait', '-q'])
    expect(lost.code, lost.err).toBe(0)
    const registry = await openRegistry({ dir: s.bed.layout.vms, instance: s.bed.instance, host: hostname(), log() {} })
    await registry.update('lost', () => undefined)
    // the agent looks at everything each time it is connected anew
    const seen = async () => JSON.parse((await run('gc', ['-o', 'json'])).out) as { name: string; passes: number }[]
    const passes = async (): Promise<number> =>
      Math.min(...['left', 'lost'].map((name) => found.find((o) => o.name === name)?.passes ?? 0))
    let found = await seen()
    for (let before = await passes(); before < 2; before = await passes()) {
      await s.libvirtd.signal('KILL')
      await s.libvirtd.start()
      await until('the agent has looked once more', async () => {
        found = await seen()
        return (await passes()) > before
      })
    }
    const asked = await run('gc')
    expect(asked.out).toMatch(/^left +folder .* moves .*\/vms\/left to .*\/vms\/\.trash$/m)
    expect(asked.out).toMatch(/^lost +domain .* stops and undefines the domain [0-9a-f-]{36}, and removes its folder$/m)
    expect(asked.err).toContain('To remove them: vmspool vm gc --yes')
    expect(await readdir(left)).toEqual(['disk.qcow2'])
    expect((await run('list')).err).toContain('2 leftovers of VMs: vmspool vm gc')

    const removed = await run('gc', ['--yes', '--wait', '-q'])
    expect(removed.code, removed.err).toBe(0)
    expect(removed.out).toMatch(/^lost .* succeeded$/m)
    const trash = join(s.bed.layout.vms, '.trash')
    const [there] = await readdir(trash)
    expect(await readFile(join(trash, there!, 'disk.qcow2'), 'utf8')).toBe('x')
    expect(await readdir(s.bed.layout.vms)).not.toContain('left')
    expect(await s.traces('lost')).toMatchObject({ domains: [], guests: 0, files: [], entry: false })
  }, 150_000)
})

describe('without an agent', () => {
  const dry = async (args: string[], cwd: string) => {
    const r = await cli(['vm', 'create', ...args, '--root', cwd, '--dry-run'], { cwd })
    expect(r.code, r.err).toBe(0)
    return JSON.parse(r.out)
  }

  test('--dry-run prints the manifest of what ghostctl would say, and submits nothing', async () => {
    await using dir = await tempDir()
    expect(
      await dry(['--name', 'web', '--vcpu', '4', '--ram', '8', '--disk', '50', '--template', 'ubuntu-22.04'], dir.path),
    ).toEqual({
      kind: 'vm',
      action: 'create',
      name: 'web',
      vm: { template: 'ubuntu-22.04', vcpus: 4, memory: '8G', disk: '50G' },
    })
    expect(await readdir(dir.path)).toEqual([])
  })

  test('every option stands in the manifest', async () => {
    await using dir = await tempDir()
    const key = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0 me@here'
    await writeFile(join(dir.path, 'keys'), `# mine\n${key}\n\nno-pty ${key}\n`)
    await writeFile(join(dir.path, 'ud.yaml'), '#cloud-config\n')
    const options = [
      ...['web', '--image', 'a.qcow2', '--image-format', 'qcow2', '--overlay', '--memory', '512M', '--vcpus', '1'],
      ...['--disk', '20', '--disk-extra', '10', '--disk-extra', 'b.raw,format=raw', '--network', 'lan'],
      ...['--network', 'bridge:br0,mac=52:54:00:00:00:01,model=e1000', '--uefi', '--secure-boot', '--machine', 'q35'],
      ...['--accelerator', 'qemu', '--user', 'me', '--ssh-key', 'keys', '--ssh-key', key, '--hostname', 'web.example'],
      ...['--password-hash', '$6$x', '--package', 'vim', '--run', 'date', '--address', '192.0.2.9/24'],
      ...[
        '--gateway',
        '192.0.2.1',
        '--nameserver',
        '192.0.2.2',
        '--no-autostart',
        '--no-start',
        '--wait-address',
        '5m',
      ],
      ...['--metadata', 'a=b=c', '--after', 'other', '--on-host', 'here'],
    ]
    expect(await dry(options, dir.path)).toEqual({
      kind: 'vm',
      action: 'create',
      name: 'web',
      vm: {
        image: join(dir.path, 'a.qcow2'),
        image_format: 'qcow2',
        copy: 'overlay',
        vcpus: 1,
        memory: '512M',
        disk: '20G',
        disks: [{ size: '10G' }, { path: join(dir.path, 'b.raw'), format: 'raw' }],
        networks: ['lan', { bridge: 'br0', mac: '52:54:00:00:00:01', model: 'e1000' }],
        firmware: 'uefi',
        secure_boot: true,
        machine: 'q35',
        accelerator: 'qemu',
        cloud_init: {
          user: 'me',
          ssh_keys: [key, `no-pty ${key}`, key],
          password_hash: '$6$x',
          hostname: 'web.example',
          packages: ['vim'],
          run: ['date'],
          network: { address: '192.0.2.9/24', gateway: '192.0.2.1', nameservers: ['192.0.2.2'] },
        },
        autostart: false,
        start: false,
        metadata: { a: 'b=c' },
      },
      wait_for_address: '5m',
      after: ['other'],
      hosts: 'here',
    })
    const ud = await dry(['web', '--from-job', 'j', '--user-data', 'ud.yaml', '--no-network'], dir.path)
    expect(ud.vm).toEqual({ from_job: 'j', networks: [], cloud_init: { user_data: '#cloud-config\n' } })
  })

  test.each<[string[], number, string]>([
    [['create'], 2, 'A VM needs a name'],
    [['create', 'a', '--name', 'b', '--template', 't'], 2, 'Two names were given'],
    [['create', 'web', '--template', 't', '--image', 'i'], 2, 'not from several'],
    [['create', 'web', '--dry-run'], 2, 'There are no templates here'],
    [['create', 'web', '--template', 't', '--ram', 'much'], 2, '"much" is no size'],
    [['create', 'web', '--template', 't', '--network', 'lan,speed=9'], 2, '"speed=9" is not mac=… or model=…'],
    [['create', 'web', '--template', 't', '--disk-extra', 'big'], 2, 'neither a size'],
    [['create', 'web', '--template', 't', '--ssh-key', '/etc/hostname', '--dry-run'], 2, 'what is no SSH key'],
    [['create', 'web', '--template', 't', '--ssh-key', '/none', '--dry-run'], 74, '/none does not exist'],
    [['create', 'web', '--template', 't', '--no-cloud-init', '--user', 'me', '--dry-run'], 2, 'contradict each other'],
    [['create', 'web', '--template', 't', '--vcpu', '1000', '--dry-run'], 65, 'vm.vcpus is 1000'],
    [['create', '../web', '--template', 't', '--dry-run'], 65, 'Nothing was submitted. name'],
    [['create', 'web', '--template', 't'], 73, 'There is no spool'],
    [['list'], 73, 'There is no spool'],
    [['list', '--state', 'up'], 2, 'Allowed choices are running, stopped'],
    [['start', 'web'], 73, 'There is no spool'],
    [['status', 'web'], 2, 'There is no VM "web"'],
    [['console', 'web'], 2, 'A console needs a terminal, and the input is none'],
    [['console', 'web', '--escape', 'x'], 2, 'is no control key'],
    [['creat', 'web'], 2, "unknown command 'creat' (did you mean create?)"],
  ])('%j', async (args, code, text) => {
    await using dir = await tempDir()
    const r = await cli(['vm', ...args, ...(args[0] === 'creat' ? [] : ['--root', join(dir.path, 'spools')])])
    expect(r).toMatchObject({ code, out: '', err: expect.stringContaining(text) })
    expect(await readdir(dir.path)).toEqual([])
  })

  test('a private key is refused', async () => {
    await using dir = await tempDir()
    await writeFile(join(dir.path, 'id'), '-----BEGIN OPENSSH PRIVATE KEY-----\nx\n')
    const r = await cli(['vm', 'create', 'web', '--template', 't', '--ssh-key', 'id', '--dry-run'], { cwd: dir.path })
    expect(r).toMatchObject({ code: 2, out: '', err: expect.stringContaining('Its public key is id.pub') })
  })

  test.each(['create', 'list', 'status', 'start', 'stop', 'restart', 'delete', 'console', 'ip', 'gc'])(
    'vm %s --help has examples',
    async (sub) => {
      const r = await cli(['vm', sub, '--help'])
      expect(r).toMatchObject({ code: 0, err: '' })
      expect(r.out).toContain('\nExamples:\n  ')
    },
  )
})
