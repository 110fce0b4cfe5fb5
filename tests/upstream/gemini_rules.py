"""What Gemini refuses. Its front end reads JSON into protocol buffers, so the first half is a small table of messages
and the errors such a reader gives; the second half is what the service itself checks."""

from __future__ import annotations

import base64
import re
from typing import Any

from .core import Refusal, decoded
from .vendor import is_number

API = "type.googleapis.com/google.ai.generativelanguage.v1beta"
ENUMS = {
    "Type": {"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL", "TYPE_UNSPECIFIED"},
    "HarmCategory": {
        f"HARM_CATEGORY_{name}"
        for name in (
            "HARASSMENT",
            "HATE_SPEECH",
            "SEXUALLY_EXPLICIT",
            "DANGEROUS_CONTENT",
            "CIVIC_INTEGRITY",
            "UNSPECIFIED",
        )
    },
    "SafetySetting.HarmBlockThreshold": {
        "HARM_BLOCK_THRESHOLD_UNSPECIFIED",
        "BLOCK_LOW_AND_ABOVE",
        "BLOCK_MEDIUM_AND_ABOVE",
        "BLOCK_ONLY_HIGH",
        "BLOCK_NONE",
        "OFF",
    },
    "FunctionCallingConfig.Mode": {"MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED"},
    "Modality": {"MODALITY_UNSPECIFIED", "TEXT", "IMAGE", "AUDIO"},
    "TaskType": {
        "TASK_TYPE_UNSPECIFIED",
        "RETRIEVAL_QUERY",
        "RETRIEVAL_DOCUMENT",
        "SEMANTIC_SIMILARITY",
        "CLASSIFICATION",
        "CLUSTERING",
        "QUESTION_ANSWERING",
        "FACT_VERIFICATION",
        "CODE_RETRIEVAL_QUERY",
    },
    "ThinkingLevel": {"THINKING_LEVEL_UNSPECIFIED", "MINIMAL", "LOW", "MEDIUM", "HIGH"},
}
MESSAGES: dict[str, dict[str, str]] = {
    "Request": {
        "contents": "Content[]",
        "systemInstruction": "Content",
        "tools": "Tool[]",
        "toolConfig": "ToolConfig",
        "safetySettings": "SafetySetting[]",
        "generationConfig": "GenerationConfig",
        "cachedContent": "str",
        "model": "str",
        "labels": "any",
        "serviceTier": "str",
        "store": "bool",
    },
    "Content": {"role": "str", "parts": "Part[]"},
    "Part": {
        "text": "str",
        "inlineData": "Blob",
        "fileData": "FileData",
        "functionCall": "FunctionCall",
        "functionResponse": "FunctionResponse",
        "thought": "bool",
        "thoughtSignature": "bytes",
        "executableCode": "any",
        "codeExecutionResult": "any",
        "videoMetadata": "any",
        "mediaResolution": "any",
        "partMetadata": "any",
    },
    "Blob": {"mimeType": "str", "data": "bytes", "displayName": "str"},
    "FileData": {"mimeType": "str", "fileUri": "str", "displayName": "str"},
    "FunctionCall": {"id": "str", "name": "str", "args": "struct"},
    "FunctionResponse": {
        "id": "str",
        "name": "str",
        "response": "struct",
        "willContinue": "bool",
        "scheduling": "str",
        "parts": "any",
    },
    "Tool": {
        "functionDeclarations": "FunctionDeclaration[]",
        "googleSearch": "any",
        "codeExecution": "any",
        "urlContext": "any",
        "googleSearchRetrieval": "any",
        "computerUse": "any",
        "fileSearch": "any",
        "googleMaps": "any",
        "mcpServers": "any",
    },
    "FunctionDeclaration": {
        "name": "str",
        "description": "str",
        "parameters": "Schema",
        "parametersJsonSchema": "any",
        "response": "Schema",
        "responseJsonSchema": "any",
        "behavior": "str",
    },
    "Schema": {
        "type": "Type",
        "format": "str",
        "title": "str",
        "description": "str",
        "nullable": "bool",
        "enum": "str[]",
        "maxItems": "int",
        "minItems": "int",
        "properties": "map",
        "required": "str[]",
        "minProperties": "int",
        "maxProperties": "int",
        "minLength": "int",
        "maxLength": "int",
        "pattern": "str",
        "example": "any",
        "anyOf": "Schema[]",
        "propertyOrdering": "str[]",
        "default": "any",
        "items": "Schema",
        "minimum": "num",
        "maximum": "num",
    },
    "ToolConfig": {
        "functionCallingConfig": "FunctionCallingConfig",
        "retrievalConfig": "any",
        "includeServerSideToolInvocations": "bool",
    },
    "FunctionCallingConfig": {"mode": "FunctionCallingConfig.Mode", "allowedFunctionNames": "str[]"},
    "SafetySetting": {"category": "HarmCategory", "threshold": "SafetySetting.HarmBlockThreshold"},
    "GenerationConfig": {
        "temperature": "num",
        "topP": "num",
        "topK": "num",
        "candidateCount": "int",
        "maxOutputTokens": "int",
        "stopSequences": "str[]",
        "responseMimeType": "str",
        "responseSchema": "Schema",
        "responseJsonSchema": "any",
        "presencePenalty": "num",
        "frequencyPenalty": "num",
        "seed": "int",
        "responseLogprobs": "bool",
        "logprobs": "int",
        "enableEnhancedCivicAnswers": "bool",
        "responseModalities": "Modality[]",
        "speechConfig": "any",
        "mediaResolution": "str",
        "thinkingConfig": "ThinkingConfig",
        "imageConfig": "ImageConfig",
        "audioTranscriptionConfig": "any",
        "responseFormat": "any",
    },
    "ThinkingConfig": {"includeThoughts": "bool", "thinkingBudget": "int", "thinkingLevel": "ThinkingLevel"},
    "ImageConfig": {"aspectRatio": "str", "imageSize": "str"},
    "Embed": {
        "model": "str",
        "content": "Content",
        "taskType": "TaskType",
        "title": "str",
        "outputDimensionality": "int",
    },
    "EmbedBatch": {"requests": "Embed[]"},
    "Count": {"contents": "Content[]", "generateContentRequest": "Request"},
}
SCALARS: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "str": ("TYPE_STRING", str),
    "num": ("TYPE_DOUBLE", (int, float)),
    "int": ("TYPE_INT32", int),
    "bool": ("TYPE_BOOL", bool),
}
DATA_FIELDS = {
    "text",
    "inlineData",
    "fileData",
    "functionCall",
    "functionResponse",
    "executableCode",
    "codeExecutionResult",
}
MEDIA = (
    "image/png",
    "image/jpeg",
    "image/webp",
    "image/heic",
    "image/heif",
    "application/pdf",
    "text/",
    "audio/",
    "video/",
)
STRING_FORMATS = ("enum", "date-time")
SIGNATURE_SKIPS = {
    base64.b64encode(text).decode()
    for text in (b"skip_thought_signature_validator", b"context_engineering_is_the_way_to_go")
}


def refuse(message: str, *, violations: bool = False) -> Refusal:
    details = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"description": message}]}]
    return Refusal(400, message, kind="INVALID_ARGUMENT", details=details if violations else None)


def star(at: str, what: str) -> Refusal:
    """The service's own complaint about a field, as it is written: a bullet with the message's name."""
    return refuse(f"* GenerateContentRequest.{at}: {what}\n")


# --- reading protocol buffers -------------------------------------------------------------------------------------


def snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda match: "_" + match[1].lower(), name)


def camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)


def read(kind: str, value: Any, at: str = "") -> Any:
    """The value with camelCase names, or the refusal that a JSON-to-protobuf reader gives."""
    if kind.endswith("[]"):
        items = value if isinstance(value, list) else [value]
        return [read(kind[:-2], item, f"{at}[{index}]") for index, item in enumerate(items)]
    if isinstance(value, list) and kind != "any":
        parent, _, name = at.rpartition(".")
        raise _unknown(name, parent, "Proto field is not repeating, cannot start list.")
    if kind in MESSAGES:
        return _read_message(kind, value, at)
    if kind == "map":
        return {name: read("Schema", part, f"{at}[{index}].value") for index, (name, part) in enumerate(value.items())}
    if kind in ENUMS:
        return _read_enum(kind, value, at)
    return value if kind == "any" else _read_scalar(kind, value, at)


def _read_message(kind: str, value: Any, at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise refuse(f"Invalid value at '{at}' ({API}.{kind}), {_quoted(value)}", violations=True)
    known = MESSAGES[kind]
    for name in value:
        if camel(name) not in known:
            raise _unknown(name, at, "Cannot find field.")
    return {
        camel(name): read(known[camel(name)], part, f"{at}.{snake(name)}".lstrip("."))
        for name, part in value.items()
        if part is not None
    }


def _unknown(name: str, at: str, why: str) -> Refusal:
    where = f" at '{at}'" if at else ""
    return refuse(f'Invalid JSON payload received. Unknown name "{name}"{where}: {why}', violations=True)


def _read_enum(kind: str, value: Any, at: str) -> str:
    said = value.upper() if kind == "Type" and isinstance(value, str) else value
    if said not in ENUMS[kind]:
        raise refuse(f"Invalid value at '{at}' ({API}.{kind}), {_quoted(value)}", violations=True)
    return str(said)


def _read_scalar(kind: str, value: Any, at: str) -> Any:
    if kind == "bytes":
        padded = str(value).replace("-", "+").replace("_", "/")
        if decoded(padded) is None:
            raise refuse(
                f"Invalid value at '{at}' (TYPE_BYTES), Base64 decoding failed for {_quoted(value)}", violations=True
            )
        return padded
    if kind == "struct":
        if not isinstance(value, dict):
            raise refuse(
                f"Invalid value at '{at}' (type.googleapis.com/google.protobuf.Struct), {_quoted(value)}",
                violations=True,
            )
        return value
    said, wanted = SCALARS[kind]
    whole = kind != "int" or (is_number(value) and float(value).is_integer())
    kinds = (int, float) if kind == "int" else wanted
    if not isinstance(value, kinds) or not whole or (isinstance(value, bool) and kind != "bool"):
        raise refuse(f"Invalid value at '{at}' ({said}), {_quoted(value)}", violations=True)
    return value


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


# --- the service's own checks -------------------------------------------------------------------------------------


def check(body: dict[str, Any], model: str) -> None:
    """A body already read by `read("Request", …)`."""
    contents = body.get("contents")
    if not contents:
        raise star("contents", "contents is not specified")
    for index, content in enumerate(contents):
        _check_content(content, f"contents[{index}]")
    if "systemInstruction" in body and not body["systemInstruction"].get("parts"):
        raise star("system_instruction.parts", "contents.parts must not be empty.")
    names = _check_tools(body)
    _check_tool_config(body.get("toolConfig", {}).get("functionCallingConfig", {}), names)
    _check_turns(contents, names)
    _check_config(body.get("generationConfig", {}), has_tools=bool(names), model=model)
    if model.startswith("gemini-3"):
        _check_signatures(contents)
        _check_text_signatures(contents)


def _check_content(content: dict[str, Any], at: str) -> None:
    if content.get("role", "user") not in ("user", "model"):
        raise refuse("Please use a valid role: user, model.")
    if not content.get("parts"):
        raise star(f"{at}.parts", "contents.parts must not be empty.")
    for index, part in enumerate(content["parts"]):
        here = f"{at}.parts[{index}]"
        data = DATA_FIELDS & set(part)
        if not data:
            raise star(f"{here}.data", "required oneof field 'data' must have one initialized field")
        if len(data) > 1:
            raise refuse(
                f"Invalid value at '{here}' (oneof), oneof field 'data' is already set. Cannot set "
                f"'{snake(sorted(data)[1])}'",
                violations=True,
            )
        _check_media(part, here)
        _check_function_part(part, here)


def _check_media(part: dict[str, Any], at: str) -> None:
    blob, file = part.get("inlineData"), part.get("fileData")
    if blob is not None:
        if not blob.get("mimeType"):
            raise refuse("Unable to process input: inline_data must have a mime_type")
        if not blob["mimeType"].startswith(MEDIA):
            raise refuse(f"Unsupported MIME type: {blob['mimeType']}")
        if not blob.get("data"):
            raise star(f"{at}.inline_data.data", "data must not be empty")
    if file is not None and not str(file.get("fileUri", "")).startswith(("https://", "gs://", "files/")):
        raise refuse(f"Invalid or unsupported file uri: {file.get('fileUri', '')}")


def _check_function_part(part: dict[str, Any], at: str) -> None:
    for field in ("functionCall", "functionResponse"):
        if field in part and not part[field].get("name"):
            raise star(f"{at}.{snake(field)}.name", "Name cannot be empty.")
    if "functionResponse" in part and "response" not in part["functionResponse"]:
        raise star(f"{at}.function_response.response", "response must be set")


def _check_tools(body: dict[str, Any]) -> list[str]:
    names: list[str] = []
    for index, tool in enumerate(body.get("tools", [])):
        for place, declaration in enumerate(tool.get("functionDeclarations", [])):
            at = f"tools[{index}].function_declarations[{place}]"
            name = declaration.get("name", "")
            if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}", name):
                raise star(
                    f"{at}.name",
                    "Invalid function name. Must start with a letter or an underscore. Must be "
                    "alphanumeric (a-z, A-Z, 0-9), underscores (_), dots (.), colons (:), or dashes (-), with "
                    "a maximum length of 128.",
                )
            if name in names:
                raise refuse(f"Duplicate function declaration found: {name}")
            names.append(name)
            if "parameters" in declaration and "parametersJsonSchema" in declaration:
                raise star(at, "parameters and parameters_json_schema are mutually exclusive")
            check_schema(declaration.get("parameters"), f"{at}.parameters")
    return names


def check_schema(schema: dict[str, Any] | None, at: str) -> None:
    if schema is None:
        return
    _check_one_schema(schema, at)
    inner = [(f"properties[{name}]", part) for name, part in schema.get("properties", {}).items()]
    inner += [(f"any_of[{index}]", part) for index, part in enumerate(schema.get("anyOf", []))]
    for where, part in [*inner, ("items", schema.get("items"))]:
        check_schema(part, f"{at}.{where}")


def _check_one_schema(schema: dict[str, Any], at: str) -> None:
    properties = schema.get("properties", {})
    kind = schema.get("type", "OBJECT" if properties else "")
    if not kind and "anyOf" not in schema:
        raise star(f"{at}.type", "must be specified")
    if kind == "OBJECT" and not properties:
        raise star(f"{at}.properties", "should be non-empty for OBJECT type")
    if kind == "ARRAY" and "items" not in schema:
        raise star(f"{at}.items", "missing field.")
    if schema.get("enum") and kind != "STRING":
        raise star(f"{at}.enum", "only allowed for STRING type")
    if kind == "STRING" and schema.get("format", "enum") not in STRING_FORMATS:
        raise star(f"{at}.format", "only 'enum' and 'date-time' are supported for STRING type")
    for index, name in enumerate(schema.get("required", [])):
        if name not in properties:
            raise star(f"{at}.required[{index}]", "property is not defined")


def _check_tool_config(config: dict[str, Any], names: list[str]) -> None:
    mode, allowed = config.get("mode", "AUTO"), config.get("allowedFunctionNames", [])
    if allowed and mode not in ("ANY", "VALIDATED"):
        raise refuse("allowed_function_names should only be set when function calling mode is ANY or VALIDATED.")
    if mode == "ANY" and not names:
        raise refuse("Function calling config is set without function_declarations.")
    for name in allowed:
        if name not in names:
            raise refuse(f"allowed_function_names contains '{name}', which is not in function_declarations.")


def _names(content: dict[str, Any], field: str) -> list[str]:
    return [part[field]["name"] for part in content["parts"] if field in part]


def _check_turns(contents: list[dict[str, Any]], declared: list[str]) -> None:
    """Calls follow the user, results follow calls, as many as there were, and by their names."""
    turns: list[tuple[str, list[str], list[str]]] = []
    for content in contents:
        role, calls, results = (
            content.get("role", "user"),
            _names(content, "functionCall"),
            _names(content, "functionResponse"),
        )
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(calls)
            turns[-1][2].extend(results)
        else:
            turns.append((role, calls, results))
    known = set(declared)
    for index, (role, calls, results) in enumerate(turns):
        if calls and (role != "model" or index == 0):
            raise refuse(
                "Please ensure that function call turn comes immediately after a user turn or after a function "
                "response turn."
            )
        known.update(calls)
        before = turns[index - 1][1] if index else []
        if results and not before:
            raise refuse("Please ensure that function response turn comes immediately after a function call turn.")
        if len(results) != len(before) and role == "user":
            raise refuse(
                "Please ensure that the number of function response parts is equal to the number of function "
                "call parts of the function call turn."
            )
        strangers = [name for name in results if name not in known]
        if strangers:
            raise refuse(f"Function response name '{strangers[0]}' matches no function call.")


SHAPES = {"1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9"}


def _check_picture(config: dict[str, Any], model: str) -> None:
    wanted = config.get("responseModalities", [])
    if "IMAGE" in wanted and "image" not in model:
        said = ", ".join(wanted)
        raise refuse(f"The requested combination of response modalities ({said}) is not supported by the model.")
    if "IMAGE" in wanted and config.get("candidateCount", 1) > 1:
        raise refuse("Multiple candidates is not enabled for this model")
    if config.get("imageConfig", {}).get("aspectRatio", "1:1") not in SHAPES:
        raise star("generation_config.image_config.aspect_ratio", "aspect_ratio must be one of the supported values.")


def _check_config(config: dict[str, Any], *, has_tools: bool, model: str) -> None:
    at = "generation_config"
    if not 0 <= config.get("temperature", 0) <= 2:
        raise star(f"{at}.temperature", "temperature must be in the range [0.0, 2.0].")
    if not 0 <= config.get("topP", 0) <= 1:
        raise star(f"{at}.top_p", "top_p must be in the range [0.0, 1.0].")
    if config.get("maxOutputTokens", 1) < 1:
        raise star(f"{at}.max_output_tokens", "max_output_tokens must be positive.")
    if not 1 <= config.get("candidateCount", 1) <= 8:
        raise star(f"{at}.candidate_count", "candidate_count must be in the range [1, 8].")
    if len(config.get("stopSequences", [])) > 5 or "" in config.get("stopSequences", []):
        raise star(f"{at}.stop_sequences", "at most 5 non-empty stop sequences are allowed.")
    _check_picture(config, model)
    mime = config.get("responseMimeType", "text/plain")
    if mime not in ("text/plain", "application/json", "text/x.enum"):
        raise star(
            f"{at}.response_mime_type",
            "allowed mimetypes are `text/plain`, `application/json`, "
            "`application/xml`, `application/yaml` and `text/x.enum`.",
        )
    if mime == "text/plain" and ("responseSchema" in config or "responseJsonSchema" in config):
        raise star(
            f"{at}.response_schema", "only allowed when response_mime_type is `application/json` or `text/x.enum`."
        )
    if "responseSchema" in config and "responseJsonSchema" in config:
        raise star(f"{at}.response_schema", "must not be set together with response_json_schema.")
    if has_tools and mime == "application/json" and not model.startswith("gemini-3"):
        raise refuse("Function calling with a response mime type: 'application/json' is unsupported")
    check_schema(config.get("responseSchema"), f"{at}.response_schema")


def _check_signatures(contents: list[dict[str, Any]]) -> None:
    """Gemini 3 wants the signature of the first call of each step since the user last spoke."""
    spoken = [
        index
        for index, content in enumerate(contents)
        if content.get("role", "user") == "user" and not _names(content, "functionResponse")
    ]
    for index in range(spoken[-1] if spoken else 0, len(contents)):
        calls = [part for part in contents[index]["parts"] if "functionCall" in part]
        if not calls:
            continue
        given = calls[0].get("thoughtSignature")
        name = calls[0]["functionCall"]["name"]
        if given is None:
            raise refuse(
                f"Function call is missing a thought_signature in functionCall parts. This is required for "
                f"tools to work correctly. Additional data, function call `default_api:{name}`, position "
                f"{index + 1}."
            )
        if given not in SIGNATURE_SKIPS and given != signature_of(calls[0]["functionCall"]):
            raise refuse("Thought signature is not valid.")


def _check_text_signatures(contents: list[dict[str, Any]]) -> None:
    """A signed text need not come back signed, but not with a signature that is another's."""
    for content in contents:
        for part in content["parts"]:
            given = part.get("thoughtSignature")
            if given and "text" in part and given not in (*SIGNATURE_SKIPS, text_signature_of(part["text"])):
                raise refuse("Thought signature is not valid.")


def text_signature_of(text: str) -> str:
    return base64.b64encode(f"sim:{text}".encode()).decode()


def signature_of(call: dict[str, Any]) -> str:
    """What the simulator signs a call with: any change to its name or arguments breaks it."""
    said = call["name"] + ":" + repr(sorted(call.get("args", {}).items()))
    return base64.b64encode(f"sim:{said}".encode()).decode()
