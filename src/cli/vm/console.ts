import { setTimeout as sleep } from 'node:timers/promises'
import { hostname } from 'node:os'
import { Command, InvalidArgumentError } from 'commander'
import type { VmView } from '../../client/vms.ts'
import type { ByteStream, Connection, Domain } from '../../libvirt/index.ts'
import { CliError, exitCodes } from '../errors.ts'
import { plain, say } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { attach, type Left } from './terminal.ts'

interface Options extends SpoolOptions {
  force?: boolean
  readOnly?: boolean
  escape: number
  device?: string
}

const ESCAPE = 0x1d

export default function define(): Command {
  return spoolOptions(new Command('console').summary('the serial console of a VM'))
    .description(
      'The serial console of a VM on this terminal. Ctrl+] leaves it, and the terminal is as it was; the VM runs on.',
    )
    .argument('<vm>', 'name or uuid; NAME@HOST where several hosts have one')
    .option('-f, --force', 'take it from whoever has it open')
    .option('-r, --read-only', 'only print what the VM says; the output may be a pipe')
    .option('-e, --escape <key>', 'what leaves it: ^A to ^_ (default: ^])', parseEscape, ESCAPE)
    .option('--device <alias>', 'another device than the first console, such as serial1')
    .addHelpText(
      'after',
      `
Examples:
  vmspool vm console web
  vmspool vm console web --force
  vmspool vm console web --read-only | tee boot.log

A VM of another host is reached through ssh to that host. Exit codes: 0 left, or the VM has ended; 1 it does not
run, or somebody took the console; 75 somebody has it open (--force).`,
    )
    .action(run)
}

function parseEscape(text: string): number {
  const key = /^\^([@-_a-z])$/.exec(text)?.[1]
  if (key === undefined) throw new InvalidArgumentError(`"${text}" is no control key. Write it as ^] or ^A.`)
  return key.toUpperCase().charCodeAt(0) & 0x1f
}

async function run(which: string, o: Options): Promise<void> {
  if (!o.readOnly && !(process.stdin.isTTY && process.stdout.isTTY)) {
    throw new CliError(
      exitCodes.usage,
      `A console needs a terminal, and ${process.stdin.isTTY ? 'the output' : 'the input'} is none. To print what the VM says: vmspool vm console ${which} --read-only.`,
    )
  }
  const { locate } = await import('../../client/place.ts')
  const { findVm, vmsOf } = await import('../../client/vms.ts')
  const { connect } = await import('../../libvirt/index.ts')
  const place = await locate(o)
  const vm = findVm(place, (await vmsOf(place, { live: false })).vms, which)
  const uri = uriOf(vm)
  if (uri !== vm.uri) say(`${vm.name} is on ${vm.host}: through ssh (${uri}).`)
  // a guest that takes nothing holds up whatever follows, pings too; and there is somebody here who sees it
  await using c = await connect(uri, { keepalive: { interval_ms: 0, misses: 1 } })
  const domain = await runningDomain(c, vm)
  const stream = await open(c, domain, vm, o)
  const key = o.readOnly ? 'Ctrl+C' : `Ctrl+${String.fromCharCode(o.escape + 64)}`
  say(`Connected to ${plain(vm.name)}. ${key} leaves.`)
  const left = await attach(stream, { escape: o.escape, input: !o.readOnly })
  process.exitCode = await tell(left, c, vm)
}

/** libvirt's socket is reached on the VM's own host. */
function uriOf(vm: VmView): string {
  if (vm.host === hostname() || !/^\w+:\/\/\//.test(vm.uri)) return vm.uri
  return vm.uri.replace(':///', `+ssh://${vm.host}/`)
}

async function runningDomain(c: Connection, vm: VmView): Promise<Domain> {
  const domain = await c.domains.byUuid(vm.uuid)
  const state = domain && (await c.domains.state(domain)).state
  if (domain !== undefined && state !== 'shutoff' && state !== 'crashed') return domain
  throw new CliError(
    exitCodes.jobFailed,
    domain === undefined
      ? `libvirt (${vm.uri}) has no domain for the VM "${vm.name}". See \`vmspool vm status ${vm.name}\`.`
      : `The VM "${vm.name}" does not run, so it has no console. Start it: vmspool vm start ${vm.name}.`,
  )
}

async function open(c: Connection, domain: Domain, vm: VmView, o: Options): Promise<ByteStream> {
  const { isLibvirtError } = await import('../../libvirt/index.ts')
  const how = { flags: [o.force ? 'force' : 'safe'] as const, ...(o.device === undefined ? {} : { device: o.device }) }
  try {
    return await c.domains.console(domain, how)
  } catch (error) {
    if (isLibvirtError(error, 'operation_failed') && !o.force)
      throw new CliError(
        exitCodes.tryAgain,
        `Somebody has the console of "${vm.name}" open. To take it: vmspool vm console ${vm.name} --force.`,
      )
    if (!isLibvirtError(error)) throw error
    throw new CliError(exitCodes.jobFailed, `libvirt does not open the console of "${vm.name}": ${error.message}.`)
  }
}

/** libvirt may need a moment to notice the end of a guest whose serial port is gone already. */
const NOTICE_MS = 5_000

async function isOff(c: Connection, vm: VmView): Promise<boolean> {
  const until = performance.now() + NOTICE_MS
  for (;;) {
    if (c.isOver()) return false
    const domain = await c.domains.byUuid(vm.uuid).catch(() => undefined)
    const state = domain && (await c.domains.state(domain).catch(() => undefined))?.state
    if (state === undefined || state === 'shutoff' || state === 'crashed') return true
    if (performance.now() > until) return false
    await sleep(100)
  }
}

/** @returns the exit code */
async function tell(left: Left, c: Connection, vm: VmView): Promise<number> {
  if (left.why === 'key') return exitCodes.ok
  if (left.why === 'signal') return left.code
  if (left.why === 'output') return exitCodes.ok // whoever read it has enough
  const off = await isOff(c, vm)
  if (c.isOver()) {
    say(
      `The connection to libvirt was lost, and the console of ${plain(vm.name)} with it; the VM need not have noticed.`,
    )
    return exitCodes.io
  }
  if (off) {
    say(`${plain(vm.name)} has ended, and its console with it.`)
    return exitCodes.ok
  }
  say(`The console of ${plain(vm.name)} was taken by somebody else${left.error ? ` (${left.error.message})` : ''}.`)
  return exitCodes.jobFailed
}
