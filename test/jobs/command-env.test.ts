// Environment files and credentials, read as whoever dropped the job; and nothing of them is left anywhere.
import { chmod, chown, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { disposeEnvironment, prepareEnvironment } from '../../src/jobs/command-env.ts'
import { parseEnvFile } from '../../src/jobs/env-file.ts'
import type { CommandManifest } from '../../src/manifest/index.ts'
import { type Bed, bed } from '../support/agent.ts'
import { commandManifest } from '../support/manifests.ts'
import { drop, endOf, readJson } from '../support/results.ts'
import { tempDir } from '../support/temp.ts'

const us = process.geteuid?.() ?? 0
const own = { file: 'x.json', uid: us, gid: process.getegid?.() ?? 0, at: new Date().toISOString() }
const nobody = { ...own, uid: 65534, gid: 65534 }
const manifest = (command: object) =>
  ({ kind: 'command', priority: 5, command: { argv: ['true'], ...command } }) as unknown as CommandManifest

describe('an environment file', () => {
  test('is read as systemd.exec(5) says', () => {
    const text = [
      '# comment \\',
      'still=comment',
      '; another',
      '',
      'PLAIN=a b  ',
      '  SPACED =  x y\t',
      `SINGLE='a "b" \\n $HOME'`,
      'DOUBLE="a \\"b\\" \\\\ \\$HOME \\n"',
      'JOINED=one\\',
      '  two',
      'QUOTED="line 1',
      'line 2"',
      'MIXED=a\'b c\'"d e"f',
      'ESCAPED=a\\ b\\  ',
      'EMPTY=',
      'EQUALS=a=b',
      'PLAIN=the last one counts',
    ].join('\n')
    expect(parseEnvFile(text)).toEqual({
      PLAIN: 'the last one counts',
      SPACED: 'x y',
      SINGLE: 'a "b" \\n $HOME',
      DOUBLE: 'a "b" \\ $HOME \\n',
      JOINED: 'one  two',
      QUOTED: 'line 1\nline 2',
      MIXED: 'ab cd ef',
      ESCAPED: 'a b ',
      EMPTY: '',
      EQUALS: 'a=b',
    })
    expect(parseEnvFile('\ufeffA=1\r\nB=2')).toEqual({ A: '1', B: '2' })
  })

  test('that is wrong is refused with its line and without its values', () => {
    expect(() => parseEnvFile('A=1\nhunter2\n')).toThrow(expect.objectContaining({ line: 2 }))
    expect(() => parseEnvFile('A=1\n\nMY-NAME=hunter2')).toThrow(expect.objectContaining({ line: 3 }))
    try {
      parseEnvFile('B C=hunter2')
      expect.unreachable()
    } catch (error) {
      expect(String(error)).not.toContain('hunter2')
    }
  })
})

describe('what a command is given', () => {
  test('comes from files and credentials, in order; the folder is private and goes', async () => {
    await using dir = await tempDir()
    const at = (name: string) => join(dir.path, name)
    await writeFile(at('a.env'), 'A=from file\nB=from file\n')
    await writeFile(at('b.env'), 'B=from the second\nC="two words"\n')
    await writeFile(at('key'), 'hunter2\n')
    const got = await prepareEnvironment(
      manifest({
        env_file: [at('a.env'), at('b.env')],
        env: { A: 'own', TOKEN: { credential: 'key' } },
        credentials: { key: at('key') },
      }),
      { drop: own, attemptDir: dir.path, us },
    )
    const folder = got.credentialsDir!
    expect(got.env).toEqual({
      A: 'own',
      B: 'from the second',
      C: 'two words',
      TOKEN: 'hunter2',
      CREDENTIALS_DIRECTORY: folder,
    })
    expect((await stat(folder)).mode & 0o777).toBe(0o700)
    expect((await stat(join(folder, 'key'))).mode & 0o777).toBe(0o400)
    expect(await readFile(join(folder, 'key'), 'utf8')).toBe('hunter2\n')
    await disposeEnvironment(dir.path)
    await disposeEnvironment(dir.path)
    await expect(stat(folder)).rejects.toThrow('ENOENT')
    expect(await readdir(dir.path)).not.toContain('credentials.json')
  })

  test('may be a credential of the agent, for root and its own user', async () => {
    await using dir = await tempDir()
    const given = join(dir.path, 'given')
    await mkdir(given)
    await writeFile(join(given, 'db'), 'hunter2')
    const before = process.env.CREDENTIALS_DIRECTORY
    process.env.CREDENTIALS_DIRECTORY = given
    try {
      const m = manifest({ env: { DB_PASSWORD: { credential: 'db' } } })
      const got = await prepareEnvironment(m, { drop: own, attemptDir: dir.path, us })
      expect(got).toEqual({ env: { DB_PASSWORD: 'hunter2' } })
      await expect(prepareEnvironment(m, { drop: nobody, attemptDir: dir.path, us })).rejects.toMatchObject({
        code: 'not-allowed',
      })
      const none = manifest({ credentials: { x: 'other' } })
      await expect(prepareEnvironment(none, { drop: own, attemptDir: dir.path, us })).rejects.toMatchObject({
        code: 'credential',
        hint: expect.stringContaining('LoadCredential=other:'),
      })
    } finally {
      if (before === undefined) delete process.env.CREDENTIALS_DIRECTORY
      else process.env.CREDENTIALS_DIRECTORY = before
    }
  })

  test.runIf(us === 0)('is only what its submitter may read, and belongs to him', async () => {
    await using dir = await tempDir()
    for (const folder of [dir.path, dirname(dir.path)]) await chmod(folder, 0o711)
    const secret = join(dir.path, 'secret')
    await writeFile(secret, 'X=hunter2', { mode: 0o600 })
    const o = { drop: nobody, attemptDir: dir.path, us }
    for (const m of [manifest({ env_file: secret }), manifest({ credentials: { k: secret } })])
      await expect(prepareEnvironment(m, o)).rejects.toMatchObject({ code: 'submitter-permission' })
    await chown(secret, 65534, 65534)
    const got = await prepareEnvironment(manifest({ env_file: secret, credentials: { k: secret } }), o)
    expect(got.env.X).toBe('hunter2')
    expect((await stat(got.credentialsDir!)).uid).toBe(65534)
    expect((await stat(join(got.credentialsDir!, 'k'))).uid).toBe(65534)
    await disposeEnvironment(dir.path)
  })
})

describe('secrets', () => {
  /** Every file of the bed, the journal of its agents included, that holds this text. */
  async function holding(b: Bed, text: string): Promise<string[]> {
    const out: string[] = []
    for (const e of await readdir(b.dir, { recursive: true, withFileTypes: true })) {
      if (!e.isFile()) continue
      const path = join(e.parentPath, e.name)
      if ((await readFile(path, 'latin1').catch(() => '')).includes(text)) out.push(path)
    }
    if (b.agents.some((a) => a.output().includes(text))) out.push('the journal')
    return out
  }

  test('reach the program and are written down nowhere', async () => {
    await using dir = await tempDir()
    await using outside = await tempDir()
    const key = join(outside.path, 'key')
    await writeFile(key, 'hunter2-by-reference\n')
    await using b = await bed(dir.path)
    await b.start()
    const shell =
      'cat "$CREDENTIALS_DIRECTORY/key" | sha256sum; printf "%s\\n" "$API_TOKEN" | sha256sum; echo "$CREDENTIALS_DIRECTORY"'
    await drop(
      b,
      commandManifest('secretive', ['true'], {
        command: { shell, credentials: { key }, env: { API_TOKEN: { credential: 'key' } } },
      }),
    )
    const { id, state } = await endOf(b, 'secretive')
    expect(state).toBe('succeeded')
    const log = await readFile(join(b.layout.outputJobs, id, 'log'), 'utf8')
    const [first, second, folder] = [...log.matchAll(/ stdout F (.*)$/gm)].map((m) => m[1]!)
    expect(first).toBe(second)
    await expect(stat(folder!)).rejects.toThrow('ENOENT')
    expect(await holding(b, 'hunter2')).toEqual([])
  })

  test('that stand in a manifest reject it, and are kept nowhere', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    const command = { argv: ['true'], env: { LANG: 'C', DB_PASSWORD: 'hunter2"\\ü' } }
    await drop(b, commandManifest('json', ['true'], { command }), 'json.json')
    await drop(
      b,
      'kind: command\nname: yaml\ncommand:\n  argv: ["true"]\n  env: { PGPASSWORD: 77788899 }\n',
      'yaml.yaml',
    )
    await drop(b, '{"kind":"command","name":"torn","command":{"env":{"API_KEY":"hunter2","X" 1}}}', 'torn.json')
    await drop(
      b,
      { kind: 'batch', name: 'many', vms: [{ id: 'v', manifest: commandManifest('v', ['true'], { command }) }] },
      'many.json',
    )
    for (const name of ['json', 'yaml', 'torn', 'many.batch']) expect((await endOf(b, name)).state).toBe('rejected')
    const { diagnostics } = (await readJson<{ diagnostics: object[] }>(join(b.layout.output, 'json.result.json')))!
    expect(diagnostics).toEqual([
      expect.objectContaining({
        path: 'command.env.DB_PASSWORD',
        line: 1,
        message: expect.stringMatching(/env_file.*credential/),
      }),
    ])
    for (const text of ['hunter2', '77788899']) expect(await holding(b, text)).toEqual([])
    const kept = (await readdir(b.layout.rejected)).filter((f) => f.includes('--'))
    expect(kept).toHaveLength(4)
    for (const file of kept) {
      expect((await stat(join(b.layout.rejected, file))).mode & 0o777).toBe(0o600)
      expect(await readFile(join(b.layout.rejected, file), 'utf8')).toMatch(/\*{8}|could not be read/)
    }
  })
})
