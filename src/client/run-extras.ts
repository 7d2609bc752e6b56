/** What has to be read or asked before a command with --env-file or limits can start. */
import { readFile } from 'node:fs/promises'
import { EnvFileError, parseEnvFile } from '../jobs/env-file.ts'
import { limitedBy, type Limits, scopeManager } from '../process/limits.ts'
import { ClientError } from './errors.ts'
import type { RunOptions } from './run.ts'

/**
 * @param say is told of limits that cannot be kept here, as sentences
 * @throws ClientError 2 when a file of variables has a line that is none, 74 or 77 when it cannot be read
 */
export async function withExtras(o: RunOptions, say: (warning: string) => void): Promise<RunOptions> {
  const out: RunOptions = { ...o }
  if (o.env_files !== undefined) {
    const env: Record<string, string> = {}
    for (const path of o.env_files) Object.assign(env, await variablesOf(path))
    out.file_env = env
  }
  if (o.limits !== undefined) {
    const unit = `vmspool-run-${process.pid}-${Date.now()}`
    const { outer, inner, warnings } = limitedBy(o.limits as Limits, { manager: await scopeManager(), unit })
    for (const warning of warnings) say(warning)
    out.prefix = [...outer, ...inner]
  }
  return out
}

async function variablesOf(path: string): Promise<Record<string, string>> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    throw new ClientError(
      code === 'EACCES' || code === 'EPERM' ? 77 : 74,
      `The file of variables ${path} cannot be read: ${message}. Nothing was started.`,
      { cause: error },
    )
  }
  try {
    return parseEnvFile(text)
  } catch (error) {
    if (!(error instanceof EnvFileError)) throw error
    throw new ClientError(
      2,
      `The file of variables ${path}, line ${error.line}: ${error.message} It holds lines NAME=value, with quotes and comments as in systemd.exec(5), EnvironmentFile. Nothing was started.`,
      { cause: error },
    )
  }
}
