// Installing, using, upgrading and removing, as an administrator does it: the .deb and install.sh in a container with a real systemd.
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { home } from '../support/agent.ts'
import { builtCheckout } from '../support/checkout.ts'
import { makeDisk } from '../support/disks.ts'
import { artifactManifest, commandManifest } from '../support/manifests.ts'
import { noBox, type SystemdBox, systemdBox } from '../support/systemd-box.ts'
import { type TempDir, tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

const exec = promisify(execFile)
const because = await noBox()
if (because !== undefined) console.warn(`\n\n  !!! Installing is NOT tested here: ${because.trim()}\n\n`)

// One after the other in one container; what one test installs the next one uses.
describe.skipIf(because !== undefined)('installed', { timeout: 400_000 }, () => {
  let temp: TempDir
  let box: SystemdBox
  const debs: string[] = []
  const at = (path: string) => join(box.root, path)
  const spool = (instance: string, path: string) => join('/var/lib/vmspool', instance, path)
  const sh = (script: string) => box.run('sh', '-c', script)
  /** As a user with all groups of his. */
  const as = (user: string, script: string) =>
    box.run(
      'setpriv',
      `--reuid=${user}`,
      `--regid=${user}`,
      '--init-groups',
      'env',
      `HOME=/home/${user}`,
      'sh',
      '-c',
      script,
    )
  const isActive = async (name: string) => (await box.run('systemctl', 'is-active', name)).stdout.trim()
  const mode = (path: string) => box.ok('stat', '-c', '%a %U:%G', path)
  const sleepers = () =>
    box.processes('agent@vsphere.service').filter((p) => p.argv[0] === 'sleep' && p.argv[1] === '6000')
  async function status(instance: string, name: string): Promise<{ state?: string; reason?: string } | undefined> {
    const { code, stdout } = await box.run('cat', spool(instance, `output/${name}.status.json`))
    return code === 0 ? JSON.parse(stdout) : undefined
  }
  async function state(instance: string, name: string, wanted: string): Promise<void> {
    await until(`${name} is ${wanted}`, async () => (await status(instance, name))?.state === wanted, {
      also: () => box.console().slice(-2000),
    })
  }

  beforeAll(async () => {
    temp = await tempDir()
    const copy = await builtCheckout(temp.path)
    const out = join(temp.path, 'packages')
    const make = (...args: string[]) =>
      exec(join(home, 'node_modules/.bin/node'), [
        join(copy, 'scripts/package.ts'),
        '--no-build',
        '--out',
        out,
        ...args,
      ])
    for (const version of ['0.0.9', '0.0.10']) {
      const { stdout } = await make('--only', 'deb', '--compress', 'none', '--set-version', version)
      debs.push(`/opt/packages/${stdout.trim().split('/').at(-1)}`)
    }
    await make('--tree', join(out, 'tree'))
    // An export of alice's: 0644 in a folder that everybody may search.
    const exported = join(temp.path, 'export')
    await mkdir(exported, { mode: 0o755 })
    const disk = await makeDisk(exported, 'web-disk-0', { size_mib: 4 })
    for (const vm of ['web', 'mail', 'later', 'direct']) {
      await mkdir(join(exported, vm), { mode: 0o755 })
      const m = { ...artifactManifest(vm, [{ ...disk, path: '/opt/export/web-disk-0.vmdk' }]), output: {} }
      const later = vm === 'later' ? { not_before: new Date(Date.now() + 3_600_000).toISOString() } : {}
      await writeFile(join(exported, vm, 'artifact-manifest.json'), JSON.stringify({ ...m, ...later }), { mode: 0o644 })
    }
    expect(await readdir(exported)).toContain('web-disk-0.vmdk')
    box = await systemdBox({ bare: true, bind: { '/opt/packages': out, '/opt/export': exported } })
    for (const user of ['alice', 'bob', 'mallory', 'carol']) await box.ok('useradd', '--create-home', user)
  }, 400_000)
  afterAll(async () => {
    await box?.[Symbol.asyncDispose]()
    await temp?.[Symbol.asyncDispose]()
  }, 60_000)

  test('the .deb brings program, units, user, groups, man pages and completions, and starts nothing', async () => {
    await box.ok('dpkg', '--force-unsafe-io', '-i', debs[0] as string)
    expect(await box.ok('vmspool', '--version')).toBe('0.0.9')
    expect((await box.ok('id', '-nG', 'vmspool')).split(' ')).toEqual(
      expect.arrayContaining(['vmspool', 'vmspool-submit']),
    )
    expect(await mode('/run/vmspool/vm-promises')).toBe('2770 vmspool:vmspool')
    for (const path of ['man/man1/vmspool-daemon.1.gz', 'bash-completion/completions/vmspool', 'doc/vmspool/copyright'])
      expect(existsSync(at(`/usr/share/${path}`)), path).toBe(true)
    const completed = 'COMP_WORDS=(vmspool daemon resu); COMP_CWORD=2; _vmspool; echo $COMPREPLY'
    const { stdout } = await box.run('bash', '-c', `. /usr/share/bash-completion/completions/vmspool; ${completed}`)
    expect(stdout.split(' ')).toContain('resume')
    expect(await box.ok('systemctl', 'list-units', '--all', '--plain', '--no-legend', 'agent@*')).toBe('')
    // Not a file of the checkout's is needed: this Node is the package's own.
    expect(await box.ok('readlink', '-f', '/usr/lib/vmspool/node_modules/.bin/node')).toMatch(
      /^\/usr\/lib\/vmspool\/node_modules\/node-linux-/,
    )
  })

  test('vmspool-install makes two instances that also answer to hyper2kvm; again it changes nothing', async () => {
    await box.ok('mkdir', '-p', '/var/lib/hyper2kvm/aws/queue', '/var/lib/hyper2kvm/aws/output')
    await box.ok('touch', '/var/lib/hyper2kvm/aws/output/old.qcow2')
    const argv = ['vmspool-install', '--instance', 'vsphere', '--instance=aws', '--hyper2kvm']
    // hyper2kvm's own unit is not taken over: nothing is changed before that is known.
    await box.ok('touch', '/etc/systemd/system/hyper2kvm@.service')
    const taken = await box.run(...argv)
    expect(taken).toMatchObject({ code: 73, stderr: expect.stringContaining("is hyper2kvm's own") })
    await box.ok('rm', '/etc/systemd/system/hyper2kvm@.service')
    expect(existsSync(at('/etc/vmspool/agent@aws.yaml'))).toBe(false)
    const first = await box.run(...argv)
    expect(first, first.stdout + first.stderr).toMatchObject({ code: 0 })
    expect(first.stdout).toContain('Started: agent@vsphere.service, with the spool /var/lib/vmspool/vsphere')
    for (const name of [
      'agent@vsphere',
      'agent@aws',
      'hyper2kvm@vsphere.service',
      'hyper2kvm@aws.service',
      'agent.target',
    ])
      expect([name, await isActive(name)]).toEqual([name, 'active'])
    expect(await isActive('hyper2kvm.service')).toBe('inactive')
    expect(await box.ok('readlink', '/var/lib/hyper2kvm/vsphere/queue')).toBe('/var/lib/vmspool/vsphere/queue')
    // Where hyperexport looks whatever the instance: there is no "default" here.
    expect(await box.ok('readlink', '/var/lib/hyper2kvm/output')).toBe('/var/lib/vmspool/vsphere/output')
    expect(await box.ok('ls', '/var/lib/hyper2kvm/aws/output.before-vmspool')).toBe('old.qcow2')
    expect(await mode(spool('aws', 'queue'))).toBe('3730 vmspool:vmspool-submit')
    expect(await mode(spool('aws', 'control'))).toBe('3770 vmspool:vmspool-submit')
    expect(await mode(spool('aws', 'output'))).toBe('2755 vmspool:vmspool-submit')
    expect(await mode(spool('aws', 'jobs'))).toBe('750 vmspool:vmspool')
    expect(await box.ok('cat', '/etc/vmspool/agent@aws.yaml')).toContain('compress_level: 9')

    const pid = await box.show('agent@aws.service', 'MainPID')
    const again = await box.run(...argv)
    expect(again.code, again.stderr).toBe(0)
    expect(again.stdout).not.toMatch(/Started|Enabled|Link|Configuration|User/)
    expect(await box.show('agent@aws.service', 'MainPID')).toBe(pid)
  })

  test('who is in the group drops and reads; nobody lists, removes or cancels what others dropped', async () => {
    for (const user of ['alice', 'bob']) await box.ok('usermod', '-aG', 'vmspool-submit', user)
    await box.ok('usermod', '-aG', 'vmspool-submit,vmspool', 'carol')
    await box.ok('systemctl', 'stop', 'agent@aws')
    const queue = spool('aws', 'queue')
    expect(await as('alice', `cp /opt/export/web/artifact-manifest.json ${queue}/`)).toMatchObject({ code: 0 })
    expect(
      await as('alice', `umask 077; cp /opt/export/mail/artifact-manifest.json ${queue}/secret.json`),
    ).toMatchObject({ code: 0 })
    const denied = /Permission denied|Operation not permitted/
    for (const [user, command] of [
      ['bob', `ls ${queue}`],
      ['bob', `rm -f ${queue}/artifact-manifest.json`],
      ['bob', `mv ${queue}/artifact-manifest.json ${queue}/x.json`],
      ['bob', `echo {} >${queue}/artifact-manifest.json`],
      ['bob', `cat ${queue}/secret.json`],
      ['bob', `ls ${spool('aws', 'jobs')}`],
      ['bob', `touch ${spool('aws', 'output')}/web.qcow2`],
      ['mallory', `touch ${queue}/x.json`],
      ['mallory', `touch ${spool('aws', 'control')}/pause`],
    ] as const) {
      const r = await as(user, command)
      expect([user, command, r.code]).not.toEqual([user, command, 0])
      expect([user, command, r.stderr]).toEqual([user, command, expect.stringMatching(denied)])
    }
    await box.ok('systemctl', 'start', 'agent@aws')
    await state('aws', 'web', 'succeeded')
    // One that the agent cannot read is answered so, where its owner can read it.
    const said = await until('the unreadable one is answered', async () => {
      const r = await as('alice', `cat ${spool('aws', 'output/secret.error')}`)
      return r.code === 0 ? r.stdout : undefined
    })
    expect(said).toContain('may not read it')
    expect(await as('alice', `cat ${spool('aws', 'output/web.qcow2')} >/dev/null`)).toMatchObject({ code: 0 })
    expect((await as('mallory', `cat ${spool('aws', 'output/web.qcow2')}`)).stderr).toMatch(denied)

    // The client, which can list neither queue nor jobs, and what has been accepted: its own, and everybody's for operators.
    for (const canceller of ['alice', 'carol']) {
      const manifest = '/opt/export/later/artifact-manifest.json'
      const submitted = await as('alice', `vmspool submit --instance aws -o name ${manifest}`)
      expect(submitted, submitted.stderr).toMatchObject({ code: 0 })
      await state('aws', 'later', 'held')
      const refused = await as('bob', 'vmspool cancel --instance aws later')
      expect(refused).toMatchObject({ code: 77, stderr: expect.stringContaining('it was dropped by somebody else') })
      expect((await status('aws', 'later'))?.state).toBe('held')
      expect(await as(canceller, 'vmspool cancel --instance aws later')).toMatchObject({ code: 0 })
      await state('aws', 'later', 'cancelled')
    }
  })

  test('the control socket is for the group of the agent, and the journal says who used it', async () => {
    expect(await as('alice', 'vmspool daemon pause --instance aws')).toMatchObject({ code: 77 })
    expect(await as('carol', 'vmspool daemon pause --instance aws')).toMatchObject({ code: 0 })
    expect(await as('carol', 'vmspool daemon resume --instance aws')).toMatchObject({ code: 0 })
    const uid = Number(await box.ok('id', '-u', 'carol'))
    const lines = (await box.ok('journalctl', '--no-pager', '-o', 'cat', 'VMSPOOL_EVENT=control.request')).split('\n')
    expect(lines.map((l) => JSON.parse(l))).toMatchObject([
      { command: 'pause', peer: { uid } },
      { command: 'resume', peer: { uid } },
    ])
  })

  test('vmspool daemon: what systemd and the leases know, for services and for an agent started by hand', async () => {
    const daemon = async (...args: string[]) => {
      const r = await box.run('vmspool', 'daemon', ...args)
      return { ...r, told: `${r.stdout}${r.stderr}` }
    }
    const instances = async (...args: string[]): Promise<Record<string, unknown>[]> =>
      JSON.parse((await daemon(...args)).stdout).instances
    await box.ok('sh', '-c', 'setsid vmspool agent hand </dev/null >/srv/hand.log 2>&1 &')
    await until('the agent by hand is there', async () => (await daemon('status', '--instance', 'hand')).code === 0)
    const pids = Object.fromEntries(
      await Promise.all(
        ['aws', 'vsphere'].map(async (i) => [i, Number(await box.show(`agent@${i}.service`, 'MainPID'))] as const),
      ),
    )
    const all = await instances('-op', 'list', '-json')
    const uptime = expect.stringMatching(/^\d+s$/)
    const one = (name: string) => ({
      name,
      service: `agent@${name}.service`,
      active: true,
      status: 'active',
      main_pid: pids[name],
      uptime,
      watch_dir: `/var/lib/vmspool/${name}/queue`,
      output_dir: `/var/lib/vmspool/${name}/output`,
    })
    const hand = { name: 'hand', service: '', active: true, status: 'active', main_pid: expect.any(Number), uptime }
    expect(all).toMatchObject([one('aws'), hand, one('vsphere')])
    expect(await instances('-op', 'status', '-instance', 'vsphere', '-json')).toMatchObject([one('vsphere')])
    expect((await daemon('status')).stdout).toMatch(/^aws +agent@aws\.service +active +\d+ +[\d smh]+ +1$/m)

    expect(await daemon('restart', '--instance', 'hand')).toMatchObject({
      code: 75,
      told: expect.stringContaining('was started by hand'),
    })
    expect(await daemon('logs', '--instance', 'hand')).toMatchObject({ code: 69 })
    expect((await daemon('stop', '--all', '--wait')).stdout.split('\n').sort()).toEqual([
      'aws: Stopping daemon',
      'hand: Stopping daemon',
      'vsphere: Stopping daemon',
    ])
    await until('the units have ended', async () => (await isActive('agent@aws')) === 'inactive')
    expect(await daemon('status', '--instance', 'aws')).toMatchObject({
      code: 69,
      told: expect.stringContaining('inactive'),
    })
    expect(await daemon('start', '--all')).toMatchObject({ code: 0 })
    for (const name of ['aws', 'vsphere'])
      await until(`${name} runs`, async () => (await isActive(`agent@${name}`)) === 'active')
    const before = await box.show('agent@aws.service', 'MainPID')
    expect(await daemon('restart', '--instance', 'aws')).toMatchObject({
      code: 0,
      told: 'agent@aws.service: restarted.',
    })
    expect(await box.show('agent@aws.service', 'MainPID')).not.toBe(before)
    expect((await daemon('logs', '--instance', 'aws', '-n', '400')).stdout).toContain('"event":"agent.ready"')
    // One whose configuration is wrong does not hide the others.
    await box.ok('sh', '-c', 'echo lgo: >/etc/vmspool/agent@bad.yaml')
    expect(await daemon('start', '--instance', 'bad')).toMatchObject({ code: 78 })
    expect((await box.run('systemctl', 'start', 'agent@bad')).code).toBe(1)
    const bad = {
      name: 'bad',
      status: 'failed',
      active: false,
      error: expect.stringContaining('There is no setting "lgo"'),
    }
    expect(await instances('list', '-o', 'json')).toMatchObject([{ status: 'active' }, bad, {}, { status: 'active' }])
    await box.ok('rm', '/etc/vmspool/agent@bad.yaml')
    await box.ok('systemctl', 'reset-failed', 'agent@bad')
  })

  test('hyperexport finds the daemon by its unit, and the program when there is none', async () => {
    const hyperexport = async (vm: string) => {
      const o = {
        instance: 'vsphere',
        watchDir: '/var/lib/hyper2kvm/queue',
        outputDir: '/var/lib/hyper2kvm/output',
        manifestPath: `/home/alice/${vm}/artifact-manifest.json`,
        pollMs: 1000,
        timeoutMs: 60_000,
      }
      await as('alice', `cp -r /opt/export/${vm} /home/alice/`)
      const program = '/opt/checkout/test/contract/hyperexport.process.ts'
      const r = await as('alice', `/opt/checkout/node_modules/.bin/node ${program} '${JSON.stringify(o)}'`)
      return JSON.parse(r.stdout || JSON.stringify(r))
    }
    expect(await hyperexport('mail')).toMatchObject({
      mode: 'daemon',
      success: true,
      outputPath: '/var/lib/hyper2kvm/output/mail.qcow2',
    })
    await box.ok('systemctl', 'stop', 'agent@vsphere')
    const direct = await hyperexport('direct')
    expect(direct).toMatchObject({
      mode: 'direct',
      success: true,
      outputPath: '/home/alice/direct/output/direct.qcow2',
    })
    expect(direct.output.join('\n')).toContain('direct (direct): copy')
    const images = ['/home/alice/direct/output/direct.qcow2', spool('vsphere', 'output/mail.qcow2')]
    expect(await box.ok('qemu-img', 'compare', ...images)).toBe('Images are identical.')
    await box.ok('systemctl', 'start', 'agent@vsphere')
  })

  test('an upgrade keeps edited configuration and running commands', async () => {
    await box.ok(
      'sh',
      '-c',
      "printf 'log: {level: debug}\\n' >/etc/vmspool/agent.yaml; echo '# mine' >>/etc/vmspool/agent@vsphere.yaml",
    )
    const manifest = commandManifest('long', ['sleep', '6000'])
    await writeFile(at('/srv/long.json'), JSON.stringify(manifest), { mode: 0o644 })
    // Not root's agent runs its own user's programs alone.
    await box.ok(
      'setpriv',
      '--reuid=vmspool',
      '--regid=vmspool',
      '--init-groups',
      'cp',
      '/srv/long.json',
      spool('vsphere', 'queue'),
    )
    const [before] = await until('it sleeps', () => (sleepers().length === 1 ? sleepers() : undefined))
    const agent = await box.show('agent@vsphere.service', 'MainPID')
    const r = await box.run(
      'env',
      'DEBIAN_FRONTEND=noninteractive',
      'dpkg',
      '--force-unsafe-io',
      '-i',
      debs[1] as string,
    )
    expect(r.code, r.stderr).toBe(0)
    expect(await box.ok('vmspool', '--version')).toBe('0.0.10')
    for (const name of ['vsphere', 'aws']) expect(await isActive(`agent@${name}`)).toBe('active')
    expect(await box.show('agent@vsphere.service', 'MainPID')).not.toBe(agent)
    expect(await box.ok('cat', '/etc/vmspool/agent.yaml')).toBe('log: {level: debug}')
    expect(await box.ok('tail', '-n', '1', '/etc/vmspool/agent@vsphere.yaml')).toBe('# mine')
    expect(sleepers()).toEqual([before])
    await state('vsphere', 'long', 'running')
    const daemon = JSON.parse(await box.ok('vmspool', 'daemon', 'status', '--instance', 'vsphere', '-o', 'json'))
    expect(String(daemon.instances[0].main_pid)).toBe(await box.show('agent@vsphere.service', 'MainPID'))
    await box.ok('vmspool', 'stop', '--instance', 'vsphere', 'long')
    expect(sleepers()).toEqual([])
  })

  test('removed, the configuration stays; purged, only what nobody may delete unasked', async () => {
    await box.ok('dpkg', '-r', 'vmspool')
    expect(await sh('ls /usr/bin/vmspool /usr/lib/vmspool /usr/lib/systemd/system/agent@.service')).toMatchObject({
      code: 2,
      stdout: '',
    })
    expect(await isActive('agent@vsphere')).not.toBe('active')
    expect(existsSync(at('/run/vmspool/vm-promises'))).toBe(false)
    expect(await box.ok('cat', '/etc/vmspool/agent.yaml')).toBe('log: {level: debug}')
    const r = await box.run('dpkg', '-P', 'vmspool')
    expect(r.code, r.stderr).toBe(0)
    expect(r.stdout).toContain('kept: /var/lib/vmspool/aws, which holds /var/lib/vmspool/aws/output/web.qcow2')
    expect(
      await box
        .ok('find', '/etc/vmspool', '/var/cache/vmspool', '/usr/lib/vmspool', '/usr/local/bin/hyper2kvm')
        .catch((e) => e.message),
    ).toMatch(/No such file/)
    expect(await box.ok('find', '/etc/systemd/system', '-name', '*agent*', '-o', '-name', 'hyper2kvm*')).toBe('')
    expect(await box.ok('ls', '/var/lib/hyper2kvm/aws/output')).toBe('old.qcow2')
    // After the administrator has taken the disks away the rest goes, too.
    await box.ok('rm', '-rf', '/var/lib/vmspool', '/var/lib/hyper2kvm')
    await box.ok('userdel', 'vmspool')
    await box.ok('groupdel', 'vmspool-submit')
  })

  test('install.sh: elsewhere, as another user; again; an upgrade; removed; purged', async () => {
    const files = () =>
      box.ok('sh', '-c', 'find /etc/systemd /usr/local /opt/vms /etc/vmspool /var/lib/vmspool 2>/dev/null | sort')
    const nothing = await files()
    const argv = ['--prefix', '/opt/vms', '--instance', 'x', '--user', 'spooler']
    const dry = await box.run('/opt/packages/tree/install.sh', ...argv, '--dry-run')
    expect(dry).toMatchObject({ code: 0, stdout: expect.stringContaining('(not done) Started: agent@x.service') })
    expect(await files()).toBe(nothing)
    expect((await as('alice', `/opt/packages/tree/install.sh ${argv.join(' ')}`)).code).toBe(77)

    const first = await box.run('/opt/packages/tree/install.sh', ...argv)
    expect(first.code, first.stdout + first.stderr).toBe(0)
    expect(await isActive('agent@x')).toBe('active')
    const pid = await box.show('agent@x.service', 'MainPID')
    expect(await box.ok('stat', '-c', '%U', `/proc/${pid}`)).toBe('spooler')
    expect(await mode(spool('x', 'queue'))).toBe('3730 spooler:vmspool-submit')
    expect(await mode('/run/vmspool/vm-promises')).toBe('2770 spooler:spooler')
    const verified = await box.run(
      'systemd-analyze',
      'verify',
      '--man=no',
      'agent.service',
      'agent@x.service',
      'agent.target',
    )
    expect(verified).toEqual({ code: 0, stdout: '', stderr: '' })
    await box.ok('systemctl', 'reload', 'agent@x')

    const again = await box.run('/opt/packages/tree/install.sh', ...argv)
    expect(again.code, again.stderr).toBe(0)
    expect(again.stdout).toMatch(/^Program: \/opt\/vms\/lib\/vmspool is version \S+ already\.$/m)
    expect(again.stdout).not.toMatch(/Started|Enabled|Link|Drop-in|Units|Man pages/)
    expect(await box.show('agent@x.service', 'MainPID')).toBe(pid)

    await box.ok(
      'sh',
      '-c',
      'cp -a /opt/packages/tree /opt/newer; sed -i s/0\\.1\\.0/0.1.1/ /opt/newer/package.json; echo "# new" >>/opt/newer/conf/agent.yaml; echo "# new" >>/opt/newer/conf/agent@default.yaml; echo "# mine" >>/etc/vmspool/agent@x.yaml',
    )
    const newer = await box.run('/opt/newer/install.sh', ...argv)
    expect(newer.code, newer.stderr).toBe(0)
    expect(newer.stdout).toMatch(/^Program: .*version 0\.1\.1 \(was 0\.1\.0\)\.$/m)
    expect(await box.ok('/opt/vms/bin/vmspool', '--version')).toBe('0.1.1')
    expect(await isActive('agent@x')).toBe('active')
    expect(await box.show('agent@x.service', 'MainPID')).not.toBe(pid)
    expect(await box.ok('tail', '-n', '1', '/etc/vmspool/agent.yaml')).toBe('# new')
    expect(await box.ok('tail', '-n', '1', '/etc/vmspool/agent@x.yaml')).toBe('# mine')

    const removed = await box.run('/opt/newer/install.sh', '--uninstall', '--prefix', '/opt/vms')
    expect(removed.code, removed.stderr).toBe(0)
    expect(await isActive('agent@x')).toBe('inactive')
    const left = (await files()).split('\n').filter((f) => !nothing.split('\n').includes(f))
    expect(left.filter((f) => !/^\/(etc|var\/lib)\/vmspool(\/|$)/.test(f))).toEqual([])
    expect(left).toContain('/etc/vmspool/agent@x.yaml')
    expect((await box.run('/opt/newer/install.sh', '--uninstall', '--prefix', '/opt/vms')).code).toBe(69)

    expect((await box.run('/opt/newer/install.sh', ...argv, '--no-start')).code).toBe(0)
    expect(await isActive('agent@x')).toBe('inactive')
    const purged = await box.run('/opt/vms/lib/vmspool/install.sh', '--uninstall', '--purge', '--prefix', '/opt/vms')
    expect(purged.code, purged.stderr).toBe(0)
    expect(await files()).toBe(nothing)
    expect((await box.run('getent', 'group', 'vmspool-submit')).code).toBe(2)
  })
})
