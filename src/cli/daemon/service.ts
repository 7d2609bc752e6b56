/** start, restart and logs: what only systemd can do, because the agent is not there yet, or writes elsewhere. */
import { spawn } from 'node:child_process'
import { agentsOf } from '../../client/agents.ts'
import { locate, type Place } from '../../client/place.ts'
import { agentUnits, underSystemd, unitName } from '../../client/units.ts'
import { CliError, exitCodes } from '../errors.ts'
import { say } from '../output.ts'
import type { SpoolOptions } from '../spool-options.ts'

export interface ServiceOptions extends SpoolOptions {
  all?: boolean
  follow?: boolean
  lines?: number
}

export async function startOrRestart(operation: 'start' | 'restart', o: ServiceOptions): Promise<void> {
  const place = await locate(o)
  if (!underSystemd()) {
    throw new CliError(
      exitCodes.noAgent,
      `systemd does not run here, so there is no service to ${operation}. Run the agent yourself: vmspool agent ${place.instance} --root ${place.layout.root}`,
    )
  }
  // The target wants all that are enabled, and a restart of it reaches all that run.
  const unit = o.all ? 'agent.target' : unitName(place.instance)
  if (!o.all) await refuseByHand(operation, place)
  const { code, said } = await systemctl(operation, unit)
  if (code !== 0) {
    const permission = /access denied|authentication|not permitted/i.test(said)
    throw new CliError(
      permission ? exitCodes.permission : exitCodes.jobFailed,
      `systemctl ${operation} ${unit} failed: ${said.trim().split('\n')[0] ?? `exit code ${code}`} ` +
        (permission
          ? 'Run it as root.'
          : `See: vmspool daemon logs${o.all ? ' --all' : ` --instance ${place.instance}`}`),
    )
  }
  say(`${unit}: ${operation === 'start' ? 'started' : 'restarted'}.`)
}

/** Two main agents of one instance cannot be, and one that was started by hand is not systemd's to restart. */
async function refuseByHand(operation: 'start' | 'restart', place: Place): Promise<void> {
  const main = (await agentsOf(place)).find((a) => a.state === 'alive' && a.role === 'main')
  if (main === undefined || main.service !== undefined) return
  const unit = (await agentUnits([place.instance])).get(place.instance)
  if (unit?.main_pid === main.pid) return
  throw new CliError(
    exitCodes.tryAgain,
    `The agent of "${place.instance}" that runs (pid ${main.pid}) was started by hand, so systemd cannot ${operation} it. ` +
      `End it first: vmspool daemon drain --wait --instance ${place.instance}. Then: vmspool daemon start --instance ${place.instance}`,
  )
}

function systemctl(...args: string[]): Promise<{ code: number; said: string }> {
  return new Promise((resolve) => {
    // A terminal is left to it: polkit may ask for a password.
    const child = spawn('systemctl', args, { stdio: ['inherit', 'inherit', 'pipe'] })
    let said = ''
    child.stderr.on('data', (d: Buffer) => {
      said += d.toString()
    })
    child.on('error', (error) => resolve({ code: 127, said: error.message }))
    child.on('close', (code) => resolve({ code: code ?? 1, said }))
  })
}

export async function showLogs(o: ServiceOptions): Promise<void> {
  const place = await locate(o)
  const main = o.all
    ? undefined
    : (await agentsOf(place)).find((a) => a.state === 'alive' && a.role === 'main' && a.service === undefined)
  if (!underSystemd() || main !== undefined) {
    const which = main === undefined ? 'systemd does not run here' : `its agent (pid ${main.pid}) was started by hand`
    throw new CliError(
      exitCodes.noAgent,
      `There is no journal for "${place.instance}": ${which}. Such an agent logs to its own standard output${main === undefined ? '' : `: ls -l /proc/${main.pid}/fd/1`}. The logs of jobs: vmspool logs JOB`,
    )
  }
  const units = o.all ? ['agent.service', 'agent@*.service'] : [unitName(place.instance)]
  const args = ['--no-pager', '-o', 'cat', '-n', String(o.lines ?? 50), ...units.flatMap((u) => ['-u', u])]
  process.exitCode = await new Promise<number>((resolve) => {
    const child = spawn('journalctl', o.follow ? [...args, '-f'] : args, { stdio: 'inherit' })
    // Ctrl-C is for it, too; we say how it ended.
    const wait = (): void => {}
    process.on('SIGINT', wait)
    child.on('error', () => resolve(exitCodes.io))
    child.on('close', (code, signal) => {
      process.off('SIGINT', wait)
      resolve(signal === 'SIGINT' ? exitCodes.interrupted : (code ?? 1))
    })
  })
}
