import { describe, expect, test } from 'vitest'
import { table } from '../../src/cli/commands.ts'
import { cli } from './run.ts'

describe('help', () => {
  test('--help lists every command on stdout', async () => {
    const r = await cli(['--help'])
    expect(r).toMatchObject({ code: 0, err: '' })
    for (const c of table) expect(r.out).toContain(`  ${c.name} `)
    expect(r.out).toContain('Exit codes: 0 ok, 1 the job failed')
  })

  test.each(table.map((c) => c.name))('%s --help has a description and examples', async (name) => {
    const r = await cli([name, '--help'])
    expect(r).toMatchObject({ code: 0, err: '' })
    expect(r.out).toMatch(new RegExp(`^Usage: vmspool ${name} `))
    expect(r.out).toContain('\nExamples:\n  vmspool ')
    expect(await cli(['help', name])).toEqual(r)
  })

  test('no command is a usage error that shows the commands on stderr', async () => {
    const r = await cli([])
    expect(r.code).toBe(2)
    expect(r.out).toBe('')
    expect(r.err).toContain('Usage: vmspool')
  })

  test('--version is the version of package.json', async () => {
    const { default: manifest } = await import('../../package.json', { with: { type: 'json' } })
    expect(await cli(['--version'])).toMatchObject({ code: 0, out: `${manifest.version}\n`, err: '' })
  })
})

describe('usage errors end with 2, on stderr, with a suggestion and no stack trace', () => {
  test.each([
    [['lst'], "vmspool: unknown command 'lst' (did you mean list?)"],
    [['list', '--stat'], "vmspool list: unknown option '--stat' (did you mean --state?)"],
    [
      ['list', '--state', 'done'],
      "vmspool list: option '-s, --state <state...>' argument 'done' is invalid. Allowed choices are",
    ],
    [['submit'], "vmspool submit: missing required argument 'file'."],
    [['status', 'x', '--wait', '--timeout', 'soon'], '"soon" is no duration'],
    [['daemon', 'reboot'], "vmspool daemon: command-argument value 'reboot' is invalid for argument 'operation'."],
    [['schema', 'convrt'], 'There is no schema "convrt" (did you mean convert?).'],
  ])('%j', async (args, text) => {
    const r = await cli(args)
    expect(r.code).toBe(2)
    expect(r.out).toBe('')
    expect(r.err).toContain(text)
    expect(r.err).not.toMatch(/\n\s+at /)
  })
})
