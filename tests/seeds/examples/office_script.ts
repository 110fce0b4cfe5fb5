/**
 * Process email content using the LLM API.
 * @param emailContent The email content to process
 * @customfunction
 */
async function ProcessEmail(emailContent: string): Promise {
  // API configuration
  const apiUrl = "https://yourusername.pythonanywhere.com/api/v1/webhook";
  const apiToken = "your_api_token";

  // Request configuration
  const response = await fetch(apiUrl, {
    method: "POST",
    headers: {
      "Content-Type": "application/json",
      "X-API-Token": apiToken
    },
    body: JSON.stringify({
      prompt: emailContent,
      source: "email",
      type: "summary"
    })
  });

  // Check for errors
  if (!response.ok) {
    throw new Error(`API error: ${response.status}`);
  }

  // Process response
  const result = await response.json();
  return result.summary;
}
